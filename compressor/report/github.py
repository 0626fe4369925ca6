"""A gate's verdict on GitHub: workflow commands, which become annotations, and the step's summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compressor.core import Json, UsageError
from compressor.report.markdown import markdown

__all__ = ["annotate", "append_summary"]

_LEVELS = {"pass": "notice", "fail": "error", "inconclusive": "warning", "invalid": "warning"}


def annotate(document: Mapping[str, Json]) -> list[str]:
    """Return a workflow command, ``::level title=…::message``, for each limit."""
    return [
        f"::{_LEVELS[check['verdict']]} title={_property('compress gate: ' + check['name'])}::{_data(check['why'])}"
        for check in document["checks"]
    ]


def append_summary(document: Mapping[str, Json], path: Path) -> None:
    """Append the verdict to the file that GITHUB_STEP_SUMMARY names. Raises UsageError where it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(markdown(document) + "\n")
    except OSError as error:
        raise UsageError(
            f"cannot write to {path}: {error.strerror}", hint="check what GITHUB_STEP_SUMMARY is set to"
        ) from error


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
