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
    """Print what was gained and what it cost; the last line names the bundle and the next step.

    The text fits 80 columns. Without a terminal it is printed without colours.
    """
    summary = Summary.of(report)
    tables = [_comparison(summary.rows)]
    if summary.limits:
        tables.append(_limits(summary.limits))
    if summary.steps:
        tables.append(_steps(summary.steps))
    console.print()
    console.print(styled(summary.title, QUIET))
    console.print(styled(summary.headline, "bold"))
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    for note in summary.missing:
        console.print(styled(f"Note: {note}", BAD))
    for limit in summary.limits:
        if limit.shortfall:
            console.print(styled(f"{limit.verdict.capitalize()}: {limit.shortfall}", VERDICTS[limit.verdict]))
    for note in summary.notes:
        console.print(styled(f"Note: {note}", QUIET))
    # soft_wrap: a path or a command that is broken over two lines cannot be copied
    console.print(
        styled(f"Bundle: {summary.bundle} · {summary.next}" if summary.bundle else summary.next), soft_wrap=True
    )


def _comparison(rows: tuple[Row, ...]) -> Table:
    table = new_table("", "teacher", "result", "change")
    table.columns[1].justify = table.columns[2].justify = "right"
    for row in rows:
        style = "" if row.better is None else GOOD if row.better else BAD
        table.add_row(styled(row.name), styled(row.teacher), styled(row.result, "bold"), styled(row.change, style))
    return table


def _limits(limits: tuple[Limit, ...]) -> Table:
    table = new_table("budget", "limit", "result", "")
    for limit in limits:
        figures = map(styled, (limit.name, limit.limit, limit.value))
        table.add_row(*figures, styled(limit.verdict, VERDICTS[limit.verdict]))
    return table


def _steps(steps: tuple[Step, ...]) -> Table:
    table = new_table("pass", "time", "gained and cost")
    for step in steps:
        notes = [styled(note) for note in step.notes]
        warnings = [styled(f"warning: {warning}", BAD) for warning in step.warnings]
        outcome = Text("\n").join((*([Text(" · ").join(notes)] if notes else ()), *warnings))
        table.add_row(styled(step.kind), styled(step.time, QUIET), outcome)
    return table


def new_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style=QUIET, border_style=QUIET)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def styled(words: str, style: str = "") -> Text:
    """Take the words literally: no markup, no escape sequences."""
    return Text(legible(words), style=style)
