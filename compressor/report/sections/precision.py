"""What was left in float, and what else was tried."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.report.sections._section import Section, cut, table

__all__ = ["precision"]


def precision(report: Mapping[str, Json]) -> Section | None:
    """Show the graphs that post-training quantisation tried, and the operations that it left in float."""
    done = [record for record in report["passes"] if record["kind"] == "quantize" and record["metrics"].get("trials")]
    if not done:
        return None
    metrics = done[-1]["metrics"]
    rows = (
        (
            trial["in_float"],
            "" if trial["drop"] is None else f"{trial['drop']:.3g}",
            "" if trial["speedup"] is None else f"{trial['speedup']:.2f}x",
        )
        for trial in metrics["trials"]
    )
    left = metrics.get("in_float") or ()
    kept = "nothing" if not left else "the whole network" if list(left) == ["*"] else ", ".join(left)
    words = (*done[-1]["warnings"], f"In float: {kept}. compress explain tells what each part costs and buys.")
    columns = ("graph", "drop on training samples", "against float")
    return Section(
        "precision", "What runs in integers, and why", tuple(map(cut, words)), (), table("trials", columns, rows)
    )
