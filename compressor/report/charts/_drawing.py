"""From a Matplotlib figure to an element of a page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup, escape

from compressor.report.summary import legible

__all__ = ["COLOURS", "Drawing", "drawing", "short", "ticks"]

COLOURS = {
    "ink": "#010101",
    "quiet": "#020202",
    "line": "#030303",
    "good": "#040404",
    "bad": "#050505",
    "accent": "#060606",
}
"""What Matplotlib draws with, and the page's style then replaces by its own colour of that name."""

_WIDTH = 5.0
_LONGEST = 22


def short(label: str) -> str:
    """A label that leaves room for the chart."""
    label = legible(label)
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"


class Drawing:
    """A chart in the making: ``axes`` to draw on, then `svg`."""

    def __init__(self, figure: Any, axes: Any) -> None:
        self.axes = axes
        self._figure = figure

    def svg(self, told: str) -> Markup:
        """The chart as an element; ``told`` is for those who do not see it."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of glyphs that Matplotlib's font lacks: the reader's may have them
            self._figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue().decode()
        text = text[text.index("<svg") :]
        text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
        text = re.sub(r' id="[a-zA-Z0-9.]+_[0-9]+"', "", text)  # of groups: nothing refers to them
        text = re.sub(r' (d|x|y)="[^"]*"', lambda m: re.sub(r"(\.[0-9]{2})[0-9]+", r"\1", m[0]), text)  # near enough
        for name, colour in COLOURS.items():
            text = text.replace(colour, f"var(--{name})")
        text = re.sub(r" font-family: [^;]*;", "", text)  # the page's own
        text = re.sub(r"\s*\n\s*", " ", text)
        size = re.search(r'viewBox="[^"]*"', text)
        assert size is not None
        text, label = legible(text), escape(legible(told))
        opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {size[0]} role="img" aria-label="{label}">'
        return Markup(opening + text[text.index(">") + 1 :])  # noqa: S704 - Matplotlib escapes what it is given


@contextmanager
def drawing(height: float, name: str) -> Iterator[Drawing]:
    """A chart of so many inches (5 wide). ``name`` keeps apart what charts of one page define for themselves."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A page is the same for the same report: no dates, and ids that follow from what is drawn.
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 10.5,
        "text.parse_math": False,
        "text.color": COLOURS["ink"],
        "axes.labelcolor": COLOURS["quiet"],
        "axes.edgecolor": COLOURS["line"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "grid.color": COLOURS["line"],
        "xtick.color": COLOURS["quiet"],
        "ytick.color": COLOURS["quiet"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "lines.linewidth": 1.5,
        "hatch.linewidth": 1.0,
    }
    with mpl.rc_context(settings):
        figure = Figure((_WIDTH, height), layout="constrained")
        yield Drawing(figure, figure.add_subplot())


def ticks(words: Callable[[float], str]) -> Any:
    """A formatter for an axis."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: words(value))
