"""What the commands print: JSON or aligned text on stdout, progress on stderr."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from compressor.core import Json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from compressor.core import Progress, Record
    from compressor.pipeline import Watcher


def stdout_console() -> Console:
    """Return a console for results that are printed with styles."""
    from rich.console import Console

    return Console(highlight=False)


def stderr_console() -> Console:
    """Return a console for progress. Of several processes (``torchrun``) only the main one prints."""
    from rich.console import Console

    from compressor.train import workers

    return Console(stderr=True, highlight=False, quiet=not workers.is_main_process())


def show_progress(status: Status) -> Progress:
    """Return a `Progress` that shows message and percentage in a status line."""
    from rich.text import Text

    def show(message: str, done: int, total: int) -> None:
        status.update(Text(f"{message} {done / total:.0%}" if total > 1 else message))

    return show


def show_count(status: Status) -> Progress:
    """Return a `Progress` that shows message and ``done/total`` in a status line."""
    from rich.text import Text

    def show(message: str, done: int, total: int) -> None:
        status.update(Text(f"{message} {done}/{total}"))

    return show


def watch_run(console: Console, status: Status) -> Watcher:
    """Return a `Watcher` that shows the pass at work in a status line, and prints a line for each finished pass."""
    from rich.text import Text

    from compressor.pipeline import Watcher

    current = ""
    show = show_progress(status)

    def started(kind: str, number: int, total: int) -> None:
        nonlocal current
        current = f"[{number}/{total}] {kind}"
        status.update(Text(current))  # never markup: a folder may be called [red]

    def progress(message: str, done: int, total: int) -> None:
        show(f"{current}: {message}" if current else message, done, total)

    def finished(record: Record) -> None:
        duration = "cached" if record.cached else f"{record.seconds:.1f} s"
        console.print(f"{current} {duration}", markup=False)

    return Watcher(progress, started, finished)


def as_plain(value: Any) -> Json:
    """Convert a dataclass to JSON values; what JSON lacks becomes text."""
    return json.loads(json.dumps(dataclasses.asdict(value), default=str))


def print_json(value: Json) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2))


def print_document(value: Json, as_json: bool) -> None:
    """Print a dict, as JSON or with one line a key; a list takes one line an item."""
    if as_json:
        print_json(value)
        return
    width = max(len(key) for key in value)
    for key, item in value.items():
        lines = item if isinstance(item, list) and any(isinstance(i, dict | str) for i in item) else [item]
        for i, line in enumerate(lines):
            text = ", ".join(f"{k}: {v}" for k, v in line.items()) if isinstance(line, dict) else _text(line)
            print(f"{key if i == 0 else '':{width}}  {text}")


def print_table(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """Print rows, as JSON or in aligned columns under their names."""
    if as_json:
        print_json(rows)
        return
    cells = [[", ".join(v) if isinstance(v := row[c], list | tuple) else str(v) for c in columns] for row in rows]
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _text(value: Json) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
