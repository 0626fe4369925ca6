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
"""Placeholders that Matplotlib draws with; `Drawing.svg` replaces each by the page's colour of that name."""

_WIDTH = 5.0
_LONGEST = 22


def short(label: str) -> str:
    """Cut a label so that it leaves room for the chart."""
    label = legible(label)
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"


class Drawing:
    """A chart in the making: draw on ``axes``, then call `svg`."""

    def __init__(self, figure: Any, axes: Any) -> None:
        self.axes = axes
        self._figure = figure

    def svg(self, description: str) -> Markup:
        """Return the chart as an element; ``description`` is its label for screen readers."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a glyph that Matplotlib's font lacks may be in the reader's
            self._figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue().decode()
        text = text[text.index("<svg") :]
        text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
        text = re.sub(r' id="[a-zA-Z0-9.]+_[0-9]+"', "", text)  # nothing refers to the ids of groups
        text = re.sub(
            r' (d|x|y)="[^"]*"', lambda m: re.sub(r"(\.[0-9]{2})[0-9]+", r"\1", m[0]), text
        )  # two decimals suffice
        for name, colour in COLOURS.items():
            text = text.replace(colour, f"var(--{name})")
        text = re.sub(r" font-family: [^;]*;", "", text)  # the page's own
        text = re.sub(r"\s*\n\s*", " ", text)
        size = re.search(r'viewBox="[^"]*"', text)
        assert size is not None
        text, label = legible(text), escape(legible(description))
        opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {size[0]} role="img" aria-label="{label}">'
        return Markup(opening + text[text.index(">") + 1 :])  # noqa: S704 - Matplotlib escapes what it is given


@contextmanager
def drawing(height: float, name: str) -> Iterator[Drawing]:
    """Open a chart of ``height`` inches by 5. ``name`` makes the ids of one page's charts differ."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The same report gives the same page: no dates, and ids that depend only on the drawing.
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
    """Make an axis formatter of a function from a value to its text."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: words(value))
