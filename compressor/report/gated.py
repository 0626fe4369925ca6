"""Where a gate's verdict goes: files, the workflow run, and the exit code."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from compressor.atomic import refusals, write
from compressor.core import BudgetMissed, CompressError, Inconclusive, Json
from compressor.report.github import annotate, append_summary
from compressor.report.junit import junit as as_junit
from compressor.report.markdown import markdown as as_markdown

__all__ = ["publish", "verdict"]


def publish(document: Mapping[str, Json], *, junit: Path | None, markdown: Path | None, github: bool) -> Sequence[str]:
    """Write the views that were asked for. Returns the workflow commands that GitHub reads from the output.

    Raises UsageError where a file cannot be written, CompressError where the disk is full.
    """
    views = [(junit, as_junit(document, platform.node())), (markdown, as_markdown(document))]
    for path, text in views:
        if path is not None:
            with refusals(path.resolve().parent):
                path.resolve().parent.mkdir(parents=True, exist_ok=True)
                write(path.resolve(), text)
    if not github:
        return ()
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        append_summary(document, Path(summary))
    return annotate(document)


def verdict(document: Mapping[str, Json]) -> CompressError | None:
    """Return the error that ends the command with the verdict's exit code; None for a pass."""
    if document["verdict"] == "pass":
        return None
    decisive = [check for check in document["checks"] if check["verdict"] == document["verdict"]]
    what = "; ".join(f"{check['name']}: {check['why']}" for check in decisive)
    match document["verdict"]:
        case "fail":
            return BudgetMissed(what, hint="make the model smaller or faster, or loosen the limit")
        case "invalid":
            return Inconclusive(what, hint="do not change power mode, governor or runtime during the measurement")
        case _:
            return Inconclusive(what, hint="measure on a quieter device, or allow a larger regression")
