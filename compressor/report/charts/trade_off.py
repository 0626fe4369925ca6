"""The metric of several runs against their cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from compressor.report.charts._drawing import COLOURS, drawing, short, ticks

__all__ = ["trade_off"]

_SPREAD = 4.0
"""Costs that differ by more than this factor are drawn on a logarithmic axis."""


def trade_off(
    runs: Sequence[tuple[str, float, float]],
    teachers: Sequence[tuple[float, float]],
    name: str,
    axis: str,
    format_cost: Callable[[float], str],
) -> Markup:
    """Draw runs (label, cost, metric) and teachers (cost, metric).

    ``name`` is that of the cost, ``axis`` that of the metric with its unit; ``format_cost`` prints a cost.
    """
    with drawing(3.0, f"trade-off {name}") as chart:
        axes = chart.axes
        if teachers:
            axes.plot(*zip(*teachers, strict=True), "D", color="none", mec=COLOURS["ink"], ms=8, label="teacher")
        axes.plot([r[1] for r in runs], [r[2] for r in runs], "o", color=COLOURS["accent"], ms=8, label="result")
        for label, cost, value in runs:
            axes.annotate(label, (cost, value), xytext=(6, 5), textcoords="offset points")
        costs = [cost for _, cost, _ in runs] + [cost for cost, _ in teachers]
        if min(costs) > 0 and max(costs) > _SPREAD * min(costs):
            axes.set_xscale("log")
            axes.set_xticks(_between(min(costs), max(costs)))
            axes.set_xticks([], minor=True)
        axes.margins(0.14)
        axes.set(xlabel=name, ylabel=short(axis))
        axes.xaxis.set_major_formatter(ticks(format_cost))
        if teachers:
            axes.legend(frameon=False, loc="lower right", handletextpad=0.3)
        points = "; ".join(f"{label}: {format_cost(cost)}, {value:.2f}" for label, cost, value in runs)
        return chart.svg(f"{axis} against {name}: {points}")


def _between(low: float, high: float) -> list[float]:
    return [low * (high / low) ** (i / 3) for i in range(4)]
