"""What a section is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compressor.core import Json
from compressor.report.summary import Step

__all__ = ["Chart", "Picture", "Section", "Table", "cut", "picture", "table"]

_ROWS = 250
_WORDS = 300


@dataclass(frozen=True, slots=True)
class Table:
    """Columns' heads and rows of words; the first of a row is its head."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int
    """Rows that are in report.json only."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, and its figures for those who do not see it."""

    title: str
    svg: Markup
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A sample: its images (source, alternative text, caption) and what is said of it, each with a mark."""

    images: tuple[tuple[str, str, str], ...]
    lines: tuple[tuple[str, str], ...]
    """A class of the page's style, and words."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page. ``id`` is what links within the page lead to."""

    id: str
    title: str
    words: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    steps: tuple[Step, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    """Terms and what is so called."""
    command: str | None = None
    """What may be copied into a shell."""


def table(name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of at most 250 rows."""
    every = list(rows)
    kept = tuple(tuple(cut(cell) for cell in row) for row in every[:_ROWS])
    return Table(name, tuple(columns), kept, len(every) - len(kept))


def cut(words: str) -> str:
    """At most 300 characters: a report's strings may be of any length."""
    return words if len(words) <= _WORDS else f"{words[:_WORDS]} …"


def picture(base64: Json) -> str | None:
    """What an image's ``src`` is. None for anything but the base64 of a PNG: a report may be anybody's."""
    if isinstance(base64, str) and re.fullmatch(r"iVBORw0KGgo[A-Za-z0-9+/]+={0,2}", base64):
        return f"data:image/png;base64,{base64}"
    return None
