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
    """Write one page of ``runs`` (folders, or their report.json): of one alone as a run does, of several compared.

    Without ``output`` that is report.html in the run's folder, or comparison.html in the working directory.
    Returns ``{page, runs: [{run, status, headline}]}``. Raises UsageError for what is no report, and where the
    page cannot be written.
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
        told = [_told(name, report) for name, report in zip(names, reports, strict=True)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, TemplateError) as error:
        # Of all that a report holds, only its outline is checked: what is wrong with the rest is found here.
        raise UsageError(
            f"{' or '.join(map(str, runs))} is not a report as this program writes it: {type(error).__name__}: {error}",
            hint="run the command that made it again",
        ) from error
    if page.is_dir():
        raise UsageError(f"cannot write to {page}: it is a folder", hint="name a file with -o, such as page.html")
    with refusals(page.parent):
        page.parent.mkdir(parents=True, exist_ok=True)
        write(page, text)
    return {"page": str(page), "runs": told}


def _told(name: str, report: Mapping[str, Json]) -> Json:
    return {"run": name, "status": report["status"], "headline": Summary.of(report).headline}


def _names(runs: Sequence[Path]) -> list[str]:
    """What tells the runs apart: their paths, without what all of them begin with."""
    paths = [str((run if run.name != "report.json" else run.parent).absolute()) for run in runs]
    if len(set(paths)) < 2:
        return [Path(path).name for path in paths]
    start = os.path.commonpath(paths)
    return [os.path.relpath(path, start) for path in paths]
