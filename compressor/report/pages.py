"""Pages of reports that were written before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import TemplateError

from compressor.atomic import refusals, write
from compressor.core import Json, UsageError
from compressor.report.html import render_comparison, render_html
from compressor.report.reading import read_report
from compressor.report.summary import Summary

__all__ = ["write_pages"]


def write_pages(runs: Sequence[Path], output: Path | None) -> Json:
    """Write one page of ``runs`` (folders, or their report.json): a run's own page of one, a comparison of several.

    Without ``output`` the page is report.html in the run's folder, or comparison.html in the working directory.
    Returns ``{page, runs: [{run, status, headline}]}``. Raises UsageError where a file is no report, and where
    the page cannot be written.
    """
    reports = [read_report(run) for run in runs]
    names = _names(runs)
    if len(runs) == 1:
        folder = runs[0] if runs[0].is_dir() else runs[0].parent
        page = output or folder / "report.html"
    else:
        page = output or Path("comparison.html")
    try:
        text = render_html(reports[0]) if len(runs) == 1 else render_comparison(list(zip(names, reports, strict=True)))
        entries = [_entry(name, report) for name, report in zip(names, reports, strict=True)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, TemplateError) as error:
        # Reading checks only a report's outermost keys. A fault further in shows here.
        raise UsageError(
            f"{' or '.join(map(str, runs))} is not a report as this program writes it: {type(error).__name__}: {error}",
            hint="run the command that made it again",
        ) from error
    if page.is_dir():
        raise UsageError(f"cannot write to {page}: it is a folder", hint="name a file with -o, such as page.html")
    with refusals(page.parent):
        page.parent.mkdir(parents=True, exist_ok=True)
        write(page, text)
    return {"page": str(page), "runs": entries}


def _entry(name: str, report: Mapping[str, Json]) -> Json:
    return {"run": name, "status": report["status"], "headline": Summary.of(report).headline}


def _names(runs: Sequence[Path]) -> list[str]:
    """Name each run by its path, without the beginning that all paths share."""
    paths = [str((run if run.name != "report.json" else run.parent).absolute()) for run in runs]
    if len(set(paths)) < 2:
        return [Path(path).name for path in paths]
    start = os.path.commonpath(paths)
    return [os.path.relpath(path, start) for path in paths]
