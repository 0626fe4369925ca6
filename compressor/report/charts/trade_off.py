"""Several runs: what they cost against what they are worth."""

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
    worth: str,
    words: Callable[[float], str],
) -> Markup:
    """Label, cost and worth of each run, and cost and worth of their teachers; ``words`` says a cost."""
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
        axes.set(xlabel=name, ylabel=short(worth))
        axes.xaxis.set_major_formatter(ticks(words))
        if teachers:
            axes.legend(frameon=False, loc="lower right", handletextpad=0.3)
        told = "; ".join(f"{label}: {words(cost)}, {value:.2f}" for label, cost, value in runs)
        return chart.svg(f"{worth} against {name}: {told}")


def _between(low: float, high: float) -> list[float]:
    return [low * (high / low) ** (i / 3) for i in range(4)]
