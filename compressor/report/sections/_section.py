"""The parts of a section."""

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
    """Column heads and rows of text; the first cell of a row is its head."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int
    """Number of rows that are in report.json only."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, and a table of its figures."""

    title: str
    svg: Markup
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A sample: its images (source, alternative text, caption) and lines of text."""

    images: tuple[tuple[str, str, str], ...]
    lines: tuple[tuple[str, str], ...]
    """A class of the page's style, and the text."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page. Links within the page lead to its ``id``."""

    id: str
    title: str
    words: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    layout: str = "grid"
    """How pictures are laid out: ``grid``, or ``rows`` with the images of each side by side."""
    steps: tuple[Step, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    """Terms and their values."""
    command: str | None = None
    """Text to copy into a shell."""


def table(name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table of at most 250 rows."""
    every = list(rows)
    kept = tuple(tuple(cut(cell) for cell in row) for row in every[:_ROWS])
    return Table(name, tuple(columns), kept, len(every) - len(kept))


def cut(words: str) -> str:
    """Cut a text to 300 characters: a report's strings may be of any length."""
    return words if len(words) <= _WORDS else f"{words[:_WORDS]} …"


def picture(base64: Json) -> str | None:
    """Return an image's ``src``, or None for anything but a PNG in base64: anybody may have written the report."""
    if isinstance(base64, str) and re.fullmatch(r"iVBORw0KGgo[A-Za-z0-9+/]+={0,2}", base64):
        return f"data:image/png;base64,{base64}"
    return None
