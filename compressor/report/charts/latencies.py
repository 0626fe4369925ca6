"""Distributions of latencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from markupsafe import Markup

from compressor.report.charts._drawing import COLOURS, drawing, short, ticks

__all__ = ["latencies", "medians"]

_BINS = 60


def latencies(samples: Mapping[str, Sequence[float]]) -> Markup:
    """Draw a histogram of milliseconds for each name, stacked over one logarithmic axis, with the medians marked."""
    import numpy as np

    everything = np.concatenate([np.asarray(values, np.float64) for values in samples.values()])
    low, high = float(everything.min()), float(everything.max())
    low, high = (low, high) if high > low * 1.01 else (low * 0.9, high * 1.1)
    edges = np.geomspace(low, high, _BINS + 1)
    medians = {name: float(np.median(values)) for name, values in samples.items()}
    with drawing(0.7 + 1.0 * len(samples), "latencies") as chart:
        axes = chart.axes
        for row, (name, values) in enumerate(samples.items()):
            floor = 1.3 * (len(samples) - 1 - row)
            counts, _ = np.histogram(values, edges)
            heights = floor + counts / max(1, counts.max())
            style = {"color": COLOURS["quiet" if row == 0 else "accent"]}
            axes.stairs(heights, edges, baseline=floor, fill=True, alpha=0.55, lw=0, **style)
            axes.stairs(heights, edges, baseline=floor, lw=1, **style)
            axes.plot([medians[name]] * 2, [floor, floor + 1.06], color=COLOURS["ink"], lw=1.2)
            far = np.log(medians[name] / low) > 0.6 * np.log(high / low)
            axes.annotate(
                f"median {medians[name]:.3g} ms", (medians[name], floor + 1.02), xytext=(-5 if far else 5, 0),
                textcoords="offset points", ha="right" if far else "left", va="center",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set(xlabel="milliseconds, batch 1, logarithmic", xlim=(low, high), ylim=(0, 1.3 * len(samples)))
        axes.set_yticks(
            [1.3 * (len(samples) - 1 - i) + 0.5 for i in range(len(samples))], [short(name) for name in samples]
        )
        axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
        axes.set_xticks(_marks(low, high))
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(ticks(lambda value: f"{value:g}"))
        axes.grid(axis="y", visible=False)
        return chart.svg(
            ", ".join(
                f"{name}: {len(values):,} samples, median {medians[name]:.3g} ms" for name, values in samples.items()
            )
        )


def medians(blocks: Mapping[str, Sequence[Sequence[float]]]) -> Markup:
    """Draw the median of each block of samples in the order of measurement, which shows how steady the machine was."""
    with drawing(0.7 + 1.0 * len(blocks), "blocks") as chart:
        axes = chart.axes
        for row, (name, taken) in enumerate(blocks.items()):
            values = [median(block) for block in taken]
            style = {"color": COLOURS["quiet" if row == 0 else "accent"], "ls": "--" if row == 0 else "-"}
            axes.plot(
                range(1, len(values) + 1), values, marker="s" if row == 0 else "o", ms=4, label=short(name), **style
            )
        axes.set(xlabel="block", ylabel="milliseconds")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
        return chart.svg(f"medians of {max(map(len, blocks.values()))} blocks of {', '.join(blocks)}, in order")


def _marks(low: float, high: float) -> list[float]:
    """Choose up to about six round figures in the range: 1, 2 and 5 times powers of ten, else evenly spaced."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        marks = [float(f"{step}e{power}") for power in decades for step in steps]
        marks = [mark for mark in marks if low <= mark <= high]
        if len(marks) <= 7:
            break
    return marks if len(marks) > 1 else [float(f"{low + share * (high - low):.2g}") for share in (0.25, 0.5, 0.75)]
