"""The loss over the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from compressor.core import Json
from compressor.report.charts._drawing import COLOURS, drawing, short

__all__ = ["training"]

_POINTS = 200
_FEW = 40
"""Up to this number, points are marked one by one."""


def training(points: Sequence[Mapping[str, Json]], losses: Sequence[str], name: str) -> Markup:
    """Draw the loss over the steps, and its parts where there are several; ``name`` is the pass.

    At most 200 points are drawn, evenly spaced from the first to the last.
    """
    last = len(points) - 1
    rows = [round(last * i / (_POINTS - 1)) for i in range(_POINTS)] if last >= _POINTS else range(last + 1)
    points = [points[row] for row in rows]
    steps = [point["step"] for point in points]
    drawn = [("loss", [point["loss"] for point in points])]
    if len(losses) > 1:
        drawn += [(label, [point["parts"][i] for point in points]) for i, label in enumerate(losses)]
    dashes = ("-", "--", ":", "-.")
    colours = ("accent", "bad", "quiet", "ink")
    with drawing(2.6, f"training {name}") as chart:
        for i, (label, values) in enumerate(drawn):
            mark = "." if len(points) <= _FEW else None
            colour = COLOURS[colours[i % 4]]
            chart.axes.plot(steps, values, dashes[i % 4], color=colour, label=short(label), marker=mark, ms=4)
        chart.axes.set(xlabel="step", ylabel="loss", xlim=(0, steps[-1] * 1.02))
        chart.axes.xaxis.get_major_locator().set_params(integer=True)
        if len(drawn) > 1:
            chart.axes.legend(frameon=False)
        return chart.svg(
            f"{name}: the loss goes from {drawn[0][1][0]:.3g} to {drawn[0][1][-1]:.3g} in {steps[-1]:,} steps"
        )
