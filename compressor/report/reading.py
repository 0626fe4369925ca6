"""A report that was written before."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from compressor.core import Json, UsageError
from compressor.report.document import SCHEMA_VERSION, Report, Side

__all__ = ["read_report"]

_LATER = ("stages", "samples")
_LATER_OF_A_SIDE = ("memory_bytes",)
"""Keys that the first reports of this schema lack."""


def read_report(run: Path) -> Mapping[str, Json]:
    """The ``report.json`` of a run's folder, or at that path itself.

    Raises UsageError where there is none, and for a file that is not one that this program can show.
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
            f"{path} is of schema version {report['schema_version']}, and this program shows version {SCHEMA_VERSION}",
            hint="show it with the version of compressor that its `versions` name",
        )
    whole = {**dict.fromkeys(_LATER), **report}
    lacking = {field.name for field in dataclasses.fields(Report)} - whole.keys()
    for side in ("teacher", "result"):
        has = whole.get(side)
        if isinstance(has, Mapping):
            has = whole[side] = {**dict.fromkeys(_LATER_OF_A_SIDE), **has}
        keys = {field.name for field in dataclasses.fields(Side)}
        lacking |= {f"{side}.{key}" for key in keys - (has.keys() if isinstance(has, Mapping) else set())}
    if lacking:
        raise UsageError(f"{path} lacks {', '.join(sorted(lacking))}", hint=hint)
    return whole
