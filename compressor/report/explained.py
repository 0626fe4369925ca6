"""What each region's precision costs and buys, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from compressor.core import Json
from compressor.report.console import BAD, QUIET, new_table, styled

__all__ = ["print_explained"]


def print_explained(document: Mapping[str, Json], console: Console) -> None:
    """Print a line for each region of layers, then the next steps to more accuracy and to less time."""
    table = new_table("layers", "MACs", "ships as", "other", "SNR there", "latency there")
    for column in (table.columns[1], *table.columns[4:]):
        column.justify = "right"
    for row in document["regions"]:
        table.add_row(
            *map(styled, (_name(row), f"{row['macs_share']:.1%}", row["ships"], row["other"], *_changes(row)))
        )
    console.print(table)
    console.print()
    speed = f", {document['speedup']:.2f}x as fast as in float" if document["speedup"] else ""
    console.print(styled(f"As it ships: {document['snr_db']:.1f} dB from the float network{speed}", "bold"))
    for why in document["why_in_float"]:
        console.print(styled(f"Note: {why}", BAD))
    for title, row in (("More accuracy", document["next_accuracy"]), ("Less time", document["next_time"])):
        told = "nothing to gain" if row is None else f"{_name(row)} as {row['other']}: {', '.join(_changes(row))}"
        console.print(styled(f"{title}: {told}"))
    if document["why_estimated"]:
        console.print(styled(f"Latencies are estimated: {document['why_estimated']}", QUIET))


def _name(row: Mapping[str, Json]) -> str:
    return row["first"] if row["first"] == row["last"] else f"{row['first']} … {row['last']}"


def _changes(row: Mapping[str, Json]) -> tuple[str, str]:
    latency = "" if row["latency_change"] is None else f"{row['latency_change']:+.1%}"
    return f"{row['snr_change_db']:+.1f} dB", latency
