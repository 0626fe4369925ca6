"""Charts as SVG in a page's own colours, for light and dark: static, no script, nothing fetched."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup, escape

from compressor.core import Json

__all__ = ["training_curve"]

_COLOURS = {"ink": "#010101", "quiet": "#020202", "line": "#030303", "good": "#040404", "bad": "#050505"}
"""What Matplotlib draws with, and the page's style then replaces by its own colour of that name."""


def training_curve(points: Sequence[Mapping[str, Json]], losses: Sequence[str], name: str) -> Markup:
    """The loss over the steps, and each of its parts where there are several; ``name`` is what it is of."""
    steps = [point["step"] for point in points]
    drawn = [("loss", [point["loss"] for point in points])]
    if len(losses) > 1:
        drawn += [(label, [point["parts"][i] for point in points]) for i, label in enumerate(losses)]
    dashes = ("-", "--", ":", "-.")
    colours = ("good", "bad", "quiet", "ink")
    with _figure(6.4, 2.4) as (figure, axes):
        for i, (label, values) in enumerate(drawn):
            axes.plot(steps, values, dashes[i % 4], color=_COLOURS[colours[i % 4]], label=label, marker=".", ms=4)
        axes.set(xlabel="step", ylabel="loss", xlim=(0, steps[-1] * 1.02))
        if len(drawn) > 1:
            axes.legend(frameon=False)
        told = f"{name}: the loss goes from {drawn[0][1][0]:.3g} to {drawn[0][1][-1]:.3g} in {steps[-1]:,} steps"
        return _svg(figure, told)


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A page is the same for the same report: no dates, and ids that follow from what is drawn.
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "compressor",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.parse_math": False,
        "text.color": _COLOURS["ink"],
        "axes.labelcolor": _COLOURS["quiet"],
        "axes.edgecolor": _COLOURS["line"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _COLOURS["line"],
        "xtick.color": _COLOURS["quiet"],
        "ytick.color": _COLOURS["quiet"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "lines.linewidth": 1.5,
    }
    with mpl.rc_context(settings):
        figure = Figure((width, height), layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Any, told: str) -> Markup:
    """The figure as an element with a text alternative."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that Matplotlib's font lacks: the reader's may have them
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-zA-Z0-9.]+_[0-9]+"', "", text)  # of groups: nothing refers to them
    for name, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r" font-family: [^;]*;", "", text)  # the page's own
    text = re.sub(r"\s*\n\s*", " ", text)
    size = re.search(r'viewBox="[^"]*"', text)
    assert size is not None
    opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {size[0]} role="img" aria-label="{escape(told)}">'
    return Markup(opening + text[text.index(">") + 1 :])  # noqa: S704 - Matplotlib escapes what it is given
