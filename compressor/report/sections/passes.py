"""Pass by pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compressor.core import Json
from compressor.report.sections._section import Section, cut
from compressor.report.summary import Summary

__all__ = ["passes"]

_NOTES = 20


def passes(report: Mapping[str, Json]) -> Section:
    """What each pass took, told, warned of and was set to."""
    steps = tuple(
        replace(
            step,
            notes=tuple(cut(note) for note in step.notes[:_NOTES]),
            warnings=tuple(cut(warning) for warning in step.warnings[:_NOTES]),
            settings=tuple((name, cut(value)) for name, value in step.settings[:_NOTES]),
        )
        for step in Summary.of(report).steps
    )
    return Section("passes", "Pass by pass", steps=steps)
