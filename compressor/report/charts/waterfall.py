"""From the teacher's figure to the result's, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from markupsafe import Markup

from compressor.report.charts._drawing import COLOURS, drawing, short, ticks

__all__ = ["waterfall"]

_ROWS = 14
_NARROWEST = 0.1
"""Points or dB that an axis of marks spans at least, so that a rounding error looks small."""


def waterfall(
    name: str,
    teacher: float,
    steps: Sequence[tuple[str, float]],
    words: Callable[[float], str],
    signed: Callable[[float], str],
    tick: Callable[[float], str],
    *,
    lower_is_better: bool,
) -> Markup:
    """Draw the teacher, each step (its passes, and the figure after it) and the result, which is the last step's.

    ``words`` prints a figure, ``signed`` a difference, ``tick`` a mark of the axis. Figures for which lower is better
    are bars from zero; others are marks on an axis that spans their range. Of more than 14 steps the smallest are
    drawn together, as the last.
    """
    result = steps[-1][1] if steps else teacher
    changes = _changes(teacher, steps)
    reached = [teacher]
    for _, change in changes:
        reached.append(reached[-1] + change)
    labels = ["teacher", *(short(label) for label, _ in changes), "result"]
    low, high = min(reached), max(reached)
    with drawing(0.75 + 0.34 * len(labels), f"waterfall {name}") as chart:
        axes = chart.axes
        for row, value in ((0, teacher), (len(labels) - 1, result)):
            if lower_is_better:
                axes.barh(row, value, 0.56, color=COLOURS["quiet"])
            else:
                axes.plot([value], [row], "D", color=COLOURS["ink"], ms=7)
        for row, ((_, change), before) in enumerate(zip(changes, reached, strict=False), start=1):
            good = (change < 0) == lower_is_better
            hue = COLOURS["good" if good else "bad"]
            axes.barh(row, change, 0.56, left=before, color="none", edgecolor=hue, hatch=None if good else "////")
            if good:
                axes.barh(row, change, 0.56, left=before, color=hue)
        for row, value in enumerate(reached):  # from one step to the next
            axes.plot([value, value], [row - 0.28, min(row + 1.28, len(labels) - 0.72)], color=COLOURS["ink"], lw=0.8)
        texts = [words(teacher), *(signed(change) for _, change in changes), words(result)]
        ends = [teacher, *(max(pair) for pair in pairwise(reached)), result]
        for row, (text, end) in enumerate(zip(texts, ends, strict=True)):
            axes.annotate(text, (end, row), xytext=(7, 0), textcoords="offset points", va="center")
        if lower_is_better:
            left = 0.0
        else:
            widened = max(0.0, _NARROWEST - (high - low)) / 2
            low, high = low - widened, high + widened
            left = low - 0.15 * (high - low)
        axes.set(xlim=(left, high + 0.34 * (high - left)), ylim=(len(labels) - 0.5, -0.5))
        axes.set_yticks(range(len(labels)), labels, color=COLOURS["ink"])
        axes.xaxis.set_major_formatter(ticks(tick))
        axes.xaxis.set_major_locator(_few())
        axes.grid(axis="y", visible=False)
        description = ", ".join(f"{label} {text}" for label, text in zip(labels, texts, strict=True))
        return chart.svg(f"{name}: {description}")


def _changes(teacher: float, steps: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """What each step changes, without those that change nothing; the smallest of many are summed up as the last."""
    changes = [
        (label, after - before)
        for (label, after), before in zip(steps, (teacher, *(s[1] for s in steps)), strict=False)
        if after != before
    ]
    if len(changes) <= _ROWS:
        return changes
    large = sorted(range(len(changes)), key=lambda i: -abs(changes[i][1]))[: _ROWS - 1]
    others = [changes[i][1] for i in range(len(changes)) if i not in set(large)]
    return [changes[i] for i in sorted(large)] + [(f"{len(others)} smaller steps", sum(others))]


def _few() -> object:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)
