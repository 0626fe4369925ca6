"""A figure for each layer, in the order of the graph."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from compressor.report.charts._drawing import COLOURS, drawing

__all__ = ["bits", "drift"]

_PERFECT = 100.0
"""Upper end of the axis in dB: a bit-exact tensor would flatten all others."""


def drift(decibels: Sequence[float], limit: float | None, lowest: str) -> Markup:
    """Draw the signal-to-noise ratio of each tensor, and the limit under which a tensor drifts.

    ``lowest`` names the least faithful tensor.
    """
    with drawing(2.6, "drift") as chart:
        axes = chart.axes
        axes.plot(range(len(decibels)), decibels, "-", color=COLOURS["accent"], marker=".", ms=5)
        least = min(range(len(decibels)), key=decibels.__getitem__)
        axes.plot([least], [decibels[least]], "o", color="none", mec=COLOURS["bad"], ms=9, mew=1.5)
        if limit is not None:
            axes.axhline(limit, color=COLOURS["bad"], ls="--", lw=1)
            axes.annotate(
                f"{limit:g} dB: drifts below", (1, limit), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", ha="right", color=COLOURS["bad"],
            )  # fmt: skip
        floor = min(*decibels, limit) if limit is not None else min(decibels)
        ceiling = min(max(decibels), _PERFECT)
        axes.set(xlabel="tensor, from the input to the output", ylabel="signal to noise, dB")
        axes.set(ylim=(max(0, floor - 5), max(ceiling, floor) + 5))
        description = (
            f"signal to noise of {len(decibels)} tensors, from {max(decibels):.0f} down to {min(decibels):.0f} dB"
        )
        return chart.svg(f"{description}, the least at {lowest}")


def bits(widths: Sequence[int]) -> Markup:
    """Draw the bits of each layer's weights in the file."""
    with drawing(2.0, "bits") as chart:
        edges = [number - 0.5 for number in range(len(widths) + 1)]
        chart.axes.stairs(widths, edges, fill=True, color=COLOURS["accent"], alpha=0.55, lw=0)
        chart.axes.stairs(widths, edges, color=COLOURS["accent"])
        chart.axes.set(xlabel="layer with weights, in order", ylabel="bits a weight", ylim=(0, max(widths) + 1))
        chart.axes.yaxis.get_major_locator().set_params(integer=True)
        return chart.svg(f"{len(widths)} layers with weights of {min(widths)} to {max(widths)} bits")
