"""Pass by pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressor.core import Json
from compressor.report.sections._section import Section, cut
from compressor.report.summary import Step, Summary

__all__ = ["passes"]

_PASSES = 250
_ROOM = 800_000
"""Characters for all passes together."""


def passes(report: Mapping[str, Json]) -> Section:
    """Show the time, figures, warnings and settings of each pass, as far as there is room."""
    every = Summary.of(report).steps
    steps = every[:_PASSES]
    left = len(every) - len(steps)
    text = (f"{left} more passes are in report.json.",) if left else ()
    return Section("passes", "Pass by pass", text, steps=tuple(_short(s, _ROOM // len(steps)) for s in steps))


def _short(step: Step, room: int) -> Step:
    """Shorten a step: warnings have the first claim on the room, then notes, then settings."""

    def fitting(lines: Sequence[str]) -> tuple[str, ...]:
        nonlocal room
        kept: list[str] = []
        for line in map(cut, lines):
            room -= len(line) + 20
            if room < 0:
                return (*kept, "… more in report.json")
            kept.append(line)
        return tuple(kept)

    warnings, notes = fitting(step.warnings), fitting(step.notes)
    values = fitting([f"{name} = {value}" for name, value in step.settings])
    settings = tuple((name, value) for name, _, value in (line.partition(" = ") for line in values))
    return Step(cut(step.kind), step.time, notes, warnings, settings)
