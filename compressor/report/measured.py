"""What bench and gate found, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from compressor.core import Json
from compressor.report.console import BAD, GOOD, QUIET, _table, _text
from compressor.report.summary import count, milliseconds

__all__ = ["print_bench", "print_gate"]

_STYLES = {"pass": GOOD, "fail": "bold red", "inconclusive": BAD, "invalid": BAD}


def print_bench(document: Mapping[str, Json], console: Console) -> None:
    """The models' latencies, their ratio, and what the device can tell apart."""
    console.print(_latencies(document))
    console.print()
    if document["speedup"] is not None:
        low, high = document["speedup_interval"]
        console.print(
            _text(f"candidate: {document['speedup']:.3f}x as fast as the baseline ({low:.3f}–{high:.3f})", "bold")
        )
    tested = document["self_test"]
    blocks = len(document["samples_ms"]["candidate"])
    least = document["self_test_detects"]
    when = f", {tested['when']}" if tested["when"] else ""
    console.print(
        _text(f"A/A: {tested['ratio']:.3f} ({tested['interval'][0]:.3f}–{tested['interval'][1]:.3f}){when}; "
              f"{blocks} blocks tell a change of {least:.1%} apart here", QUIET)
    )  # fmt: skip
    _footer(document, console)
    if document["why_estimated"]:
        console.print(_text(f"Note: an estimate only: {document['why_estimated']}", BAD))


def print_gate(document: Mapping[str, Json], console: Console) -> None:
    """One line a limit, then the verdict."""
    table = _table("limit", "verdict", "")
    for check in document["checks"]:
        table.add_row(_text(check["name"]), _text(check["verdict"], _STYLES[check["verdict"]]), _text(check["why"]))
    console.print(table)
    console.print()
    if "runtime" in document:
        _footer(document, console)
    verdict = document["verdict"]
    console.print(_text(f"{verdict.upper()} in {document['seconds']:.1f} s", _STYLES[verdict]))


def _latencies(document: Mapping[str, Json]) -> Json:
    samples = document["models"]["candidate"]["latency_ms"]["samples"]
    table = _table(f"latency of {samples:,}", "median", "p90", "p99", "file")
    for column in table.columns[1:]:
        column.justify = "right"
    for part, model in document["models"].items():
        figures = [milliseconds(model["latency_ms"][name]) for name in ("median", "p90", "p99")]
        table.add_row(*map(_text, (f"{part} {model['path']}", *figures, count(model["bytes"], "B"))))
    return table


def _footer(document: Mapping[str, Json], console: Console) -> None:
    device, state = document["device"], document["state"]
    cores = f" on core {', '.join(map(str, document['pinned']))}" if document["pinned"] else ""
    threads = f"{document['threads']} thread{'s' if document['threads'] > 1 else ''}{cores}"
    where = f"{document['board']}: " if document["board"] else ""
    console.print(_text(f"{where}{device['board'] or device['cpu']} · {document['runtime']} · {threads}", QUIET))
    for change in state["changed"]:
        console.print(_text(f"Note: {change}", BAD))
    if state["throttled"]:
        console.print(_text("Note: the device throttled itself meanwhile", BAD))
    if document["cached"]:
        console.print(_text(f"Note: measured {document['cached']} and kept; --fresh measures anew", QUIET))
