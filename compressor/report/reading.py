"""A report that was written before."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from compressor.core import Json, UsageError
from compressor.report.document import SCHEMA_VERSION, Report, Side

__all__ = ["read_report"]


def read_report(run: Path) -> Mapping[str, Json]:
    """Read the ``report.json`` of a run's folder, or the one at that path.

    Raises UsageError where there is none, and for a file that is not a report of this schema version.
    """
    path = run / "report.json" if run.is_dir() else run
    hint = "name the folder of a run that has ended, or its report.json"
    try:
        report: Json = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON", hint=hint) from error
    if not isinstance(report, Mapping) or "schema_version" not in report:
        raise UsageError(f"{path} is not a report", hint=hint)
    if report["schema_version"] != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {report['schema_version']}, and this program reads version {SCHEMA_VERSION}",
            hint="use the version of compressor that its `versions` name, or run its `command` again",
        )
    missing = {field.name for field in dataclasses.fields(Report)} - report.keys()
    for name in ("teacher", "result"):
        side = report.get(name)
        keys = {field.name for field in dataclasses.fields(Side)}
        missing |= {f"{name}.{key}" for key in keys - (side.keys() if isinstance(side, Mapping) else set())}
    if missing:
        raise UsageError(f"{path} lacks {', '.join(sorted(missing))}", hint=hint)
    return report
