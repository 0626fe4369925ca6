"""Precision of each layer, and how far its output drifts."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.figures import count
from compressor.report.charts.layers import bits, drift
from compressor.report.sections._section import Chart, Section, cut, table

__all__ = ["layers"]

_DRAWN = 2000


def layers(report: Mapping[str, Json]) -> Section | None:
    """Show how the last verification compared the lowered graph with the float graph, tensor by tensor."""
    done = [record for record in report["passes"] if record["metrics"].get("layers")]
    compared = [layer for layer in done[-1]["metrics"]["layers"] if layer.get("tensor")] if done else []
    if not compared:
        return None
    least = min(compared, key=lambda layer: layer["db"])
    limit = done[-1]["settings"].get("drift_db")
    first = done[-1]["metrics"].get("first_drift")
    drifting = f"The first to drift is {first['tensor']}, at {first['db']:.0f} dB." if first else "No layer drifts."
    rows = (
        (
            layer["tensor"],
            layer.get("op", ""),
            f"{layer['db']:.1f} dB",
            f"{layer['stored']}, {layer['bits']} bits a weight" if "stored" in layer else "",
            count(layer["elements"]) if "elements" in layer else "",
        )
        for layer in compared
    )
    columns = ("tensor", "made by", "signal to noise", "weights stored as", "weights")
    step = -(-len(compared) // _DRAWN)
    svg = drift([layer["db"] for layer in compared[::step]], limit, least["tensor"])
    charts = [Chart("Drift: the lowered graph against the float one", svg, table("layers", columns, rows))]
    widths = [layer["bits"] for layer in compared if "bits" in layer]
    if len(set(widths)) > 1:
        charts.append(Chart("Precision: bits of each layer's weights", bits(widths[:_DRAWN])))
    text = (drifting, f"The least faithful is {least['tensor']}, {least['db']:.0f} dB.", _precision(widths))
    shown = tuple(cut(line) for line in text if line)
    return Section("layers", "Precision and drift, layer by layer", shown, tuple(charts))


def _precision(widths: list[int]) -> str:
    """Count the layers by the bits of their weights."""
    kinds = [f"{widths.count(each)} of {each} bits" for each in sorted(set(widths), reverse=True)]
    return f"Layers with weights: {', '.join(kinds)}." if kinds else ""
