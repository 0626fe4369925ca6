"""Figures as text for people: the one place where a metric, a count, a size or a time is printed."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json

__all__ = [
    "NONE",
    "count",
    "difference_unit",
    "drop",
    "duration",
    "format_change",
    "format_drop",
    "format_metric",
    "format_movement",
    "format_value",
    "is_metric",
    "milliseconds",
    "scaled",
    "with_unit",
]

NONE = "—"
"""Stands for a figure that there is not."""

_TWO_DECIMALS = ("%", "dB")


# -- metrics ----------------------------------------------------------------------------------


def format_metric(metric: Json) -> str:
    """Print a metric as ``report.json`` holds it: ``89.00 %``, ``37.31 dB``, ``0.01234``; a dash for null."""
    return NONE if not metric else format_value(metric["value"], metric["unit"])


def is_metric(value: Json) -> bool:
    """Tell whether a JSON value is a metric."""
    return isinstance(value, Mapping) and {"name", "value", "unit", "higher_is_better"} <= value.keys()


def format_value(value: float, unit: str) -> str:
    """Print a metric's value. ``%`` and ``dB`` have two decimals, everything else four significant digits."""
    figure = f"{scaled(value, unit):{'.2f' if unit in _TWO_DECIMALS else '.4g'}}"
    return f"{figure} {unit}" if unit else figure


def scaled(value: float, unit: str) -> float:
    """Convert a metric's value to the number that is printed: a fraction whose unit is ``%`` times 100."""
    return value * 100 if unit == "%" else value


def drop(before: float, after: float, unit: str, *, higher_is_better: bool = True) -> float:
    """Return how much worse ``after`` is than ``before``, in points or in the unit; negative where it is better."""
    lost = before - after if higher_is_better else after - before
    return scaled(lost, unit)


def format_drop(amount: float, unit: str) -> str:
    """Print a drop or a limit of one: ``1.10 points``, ``0.30 dB``, ``0.0123``."""
    return with_unit(f"{amount:{'.2f' if unit in _TWO_DECIMALS else '.3g'}}", unit)


def format_change(before: float, after: float, unit: str) -> str:
    """Print a signed difference: ``-1.10 points``, ``+0.30 dB``; an empty string where it rounds to none."""
    difference = scaled(after - before, unit)
    if unit in _TWO_DECIMALS:
        return with_unit(f"{difference:+.2f}", unit) if round(difference, 2) else ""
    return with_unit(f"{difference:+.3g}", unit) if format_value(before, unit) != format_value(after, unit) else ""


def format_movement(before: float, after: float, unit: str) -> str:
    """Print which way a metric went and how far: ``fell by 1.10 points``."""
    return f"{'fell' if after < before else 'rose'} by {format_drop(abs(scaled(after - before, unit)), unit)}"


def with_unit(figure: str, unit: str) -> str:
    """Append a difference's unit to its figure."""
    return f"{figure} {difference_unit(unit)}".rstrip()


def difference_unit(unit: str) -> str:
    """Return the unit of a difference: percentages differ by points."""
    return "points" if unit == "%" else unit


# -- costs ------------------------------------------------------------------------------------


def count(value: float | None, unit: str = "") -> str:
    """Print three figures and a decimal prefix: 853018 is ``853k``."""
    if value is None:
        return NONE
    prefix = ""
    for limit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            value, prefix = value / limit, name
            break
    figure = f"{value:.2f}" if value < 10 and prefix else f"{value:.1f}" if value < 100 and prefix else f"{value:.0f}"
    return f"{figure}{' ' if unit else ''}{prefix}{unit}"


def milliseconds(value: float | None) -> str:
    """Print about three figures: ``0.043 ms``, ``6.00 ms``, ``12.5 ms``, ``250 ms``."""
    if value is None:
        return NONE
    return f"{value:.{3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0}f} ms"


def duration(seconds: float) -> str:
    """Print a span of time: ``0.3 s``, ``42 s``, ``12 min 05 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
