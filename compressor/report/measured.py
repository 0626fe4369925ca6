"""Results of bench and gate on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from compressor.core import Json
from compressor.figures import count, milliseconds
from compressor.report.console import BAD, GOOD, QUIET, new_table, styled

__all__ = ["print_bench", "print_gate"]

_STYLES = {"pass": GOOD, "fail": "bold red", "inconclusive": BAD, "invalid": BAD}


def print_bench(document: Mapping[str, Json], console: Console) -> None:
    """Print the models' latencies, their ratio, and the smallest change that the device can resolve."""
    console.print(_latencies(document))
    console.print()
    if document["speedup"] is not None:
        low, high = document["speedup_interval"]
        console.print(
            styled(f"candidate: {document['speedup']:.3f}x as fast as the baseline ({low:.3f}–{high:.3f})", "bold")
        )
    self_test = document["self_test"]
    blocks = len(document["samples_ms"]["candidate"])
    least = document["self_test_detects"]
    when = f", {self_test['when']}" if self_test["when"] else ""
    console.print(
        styled(f"A/A: {self_test['ratio']:.3f} ({self_test['interval'][0]:.3f}–{self_test['interval'][1]:.3f}){when}; "
              f"{blocks} blocks resolve a change of {least:.1%} here", QUIET)
    )  # fmt: skip
    _footer(document, console)
    if document["why_estimated"]:
        console.print(styled(f"Note: only an estimate: {document['why_estimated']}", BAD))


def print_gate(document: Mapping[str, Json], console: Console) -> None:
    """Print a line for each limit, then the verdict."""
    table = new_table("limit", "verdict", "")
    for check in document["checks"]:
        table.add_row(styled(check["name"]), styled(check["verdict"], _STYLES[check["verdict"]]), styled(check["why"]))
    console.print(table)
    console.print()
    if "runtime" in document:
        _footer(document, console)
    verdict = document["verdict"]
    console.print(styled(f"{verdict.upper()} in {document['seconds']:.1f} s", _STYLES[verdict]))


def _latencies(document: Mapping[str, Json]) -> Json:
    samples = document["models"]["candidate"]["latency_ms"]["samples"]
    table = new_table(f"latency of {samples:,}", "median", "p90", "p99", "file")
    for column in table.columns[1:]:
        column.justify = "right"
    for part, model in document["models"].items():
        figures = [milliseconds(model["latency_ms"][name]) for name in ("median", "p90", "p99")]
        table.add_row(*map(styled, (f"{part} {model['path']}", *figures, count(model["bytes"], "B"))))
    return table


def _footer(document: Mapping[str, Json], console: Console) -> None:
    device, state = document["device"], document["state"]
    cores = f" on core {', '.join(map(str, document['pinned']))}" if document["pinned"] else ""
    threads = f"{document['threads']} thread{'s' if document['threads'] > 1 else ''}{cores}"
    where = f"{document['board']}: " if document["board"] else ""
    console.print(styled(f"{where}{device['board'] or device['cpu']} · {document['runtime']} · {threads}", QUIET))
    for change in state["changed"]:
        console.print(styled(f"Note: {change}", BAD))
    if state["throttled"]:
        console.print(styled("Note: the device throttled during the measurement", BAD))
    if document["cached"]:
        console.print(styled(f"Note: measured {document['cached']} and cached; --fresh measures again", QUIET))
