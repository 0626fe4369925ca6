"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compressor.core import Json
from compressor.report.summary import Limit, Row, Step, Summary, legible

GOOD, BAD, QUIET = "green", "yellow", "dim"

VERDICTS = {"met": GOOD, "missed": "bold red", "not judged": BAD}


def print_summary(report: Mapping[str, Json], console: Console) -> None:
    """Print what was gained and what it cost; the last line names the bundle and what comes next.

    Reads well from 80 columns up; without a terminal it is the same text without colours.
    """
    say = Summary.of(report)
    tables = [_comparison(say.rows)]
    if say.limits:
        tables.append(_limits(say.limits))
    if say.steps:
        tables.append(_steps(say.steps))
    console.print()
    console.print(_text(say.title, QUIET))
    console.print(_text(say.headline, "bold"))
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    for note in say.missing:
        console.print(_text(f"Note: {note}", BAD))
    for limit in say.limits:
        if limit.shortfall:
            console.print(_text(f"{limit.verdict.capitalize()}: {limit.shortfall}", VERDICTS[limit.verdict]))
    for note in say.notes:
        console.print(_text(f"Note: {note}", QUIET))
    # soft_wrap: a path or a command that is broken over two lines cannot be copied
    console.print(_text(f"Bundle: {say.bundle} · {say.next}" if say.bundle else say.next), soft_wrap=True)


def _comparison(rows: tuple[Row, ...]) -> Table:
    table = _table("", "teacher", "result", "change")
    table.columns[1].justify = table.columns[2].justify = "right"
    for row in rows:
        style = "" if row.better is None else GOOD if row.better else BAD
        table.add_row(_text(row.name), _text(row.teacher), _text(row.result, "bold"), _text(row.change, style))
    return table


def _limits(limits: tuple[Limit, ...]) -> Table:
    table = _table("budget", "limit", "result", "")
    for limit in limits:
        figures = map(_text, (limit.name, limit.limit, limit.value))
        table.add_row(*figures, _text(limit.verdict, VERDICTS[limit.verdict]))
    return table


def _steps(steps: tuple[Step, ...]) -> Table:
    table = _table("pass", "time", "gained and cost")
    for step in steps:
        notes = [_text(note) for note in step.notes]
        warnings = [_text(f"warning: {warning}", BAD) for warning in step.warnings]
        outcome = Text("\n").join((*([Text(" · ").join(notes)] if notes else ()), *warnings))
        table.add_row(_text(step.kind), _text(step.time, QUIET), outcome)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style=QUIET, border_style=QUIET)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _text(words: str, style: str = "") -> Text:
    """Never markup, and no escape sequences."""
    return Text(legible(words), style=style)
