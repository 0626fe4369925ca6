"""Candidates of a search, and their Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from compressor.report.charts._drawing import COLOURS, drawing, ticks

__all__ = ["front"]

Point = tuple[float, float]
"""Share of the teacher's latency, and score."""


def front(
    candidates: Sequence[Point], best: Sequence[Point], finalists: Sequence[Point], chosen: Point | None
) -> Markup:
    """Draw all candidates, the Pareto front of score against latency, the finalists and the chosen student."""
    with drawing(3.6, "front") as chart:
        axes = chart.axes
        if candidates:
            axes.scatter(
                *zip(*candidates, strict=True), s=9, color=COLOURS["quiet"], alpha=0.45, lw=0, label="candidates"
            )
        axes.plot(*zip(*sorted(best), strict=True), "-o", color=COLOURS["accent"], ms=5, label="Pareto front")
        if finalists:
            axes.plot(
                *zip(*finalists, strict=True), "s", color="none", mec=COLOURS["ink"], ms=10, label="measured end to end"
            )
        if chosen:
            axes.plot(*chosen, "*", color=COLOURS["good"], ms=15, mec=COLOURS["ink"], mew=0.6, label="chosen")
        axes.set(xlabel="predicted latency, share of the teacher's", ylabel="score (mean rank)")
        axes.xaxis.set_major_formatter(ticks(lambda value: f"{100 * value:g} %"))
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handletextpad=0.3)
        total = len(candidates) or len(best)
        return chart.svg(f"{len(best)} students on the Pareto front of score against latency, of {total} scored")
