"""Limits of a run: ``--budget latency=25%`` and ``--max-drop 1.0``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from compressor.catalog import unknown
from compressor.core import Measurements, UsageError
from compressor.figures import drop, format_movement, with_unit

__all__ = ["Budget", "Outcome", "judge"]

_UNITS = {
    "latency": {"%": 0.01, "ms": 1.0, "us": 1e-3, "s": 1e3},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "%": 0.01},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "%": 0.01},
    "bytes": {"": 1.0, "b": 1.0, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "%": 0.01},
}


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on one cost: absolute (ms, a count, bytes) or, where ``relative``, a share of the teacher's."""

    name: str
    limit: float
    relative: bool
    text: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``latency=25%``, ``latency=5ms``, ``params=200k``, ``macs=20M``, ``bytes=500k``; k is 1,000."""
        name, _, value = text.partition("=")
        if name not in _UNITS:
            raise unknown("budget", name, sorted(_UNITS))
        match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]+)?)\s*([a-zA-Z%]*)", value.strip())
        units = _UNITS[name]
        if match is None or match[2].lower() not in units or float(match[1]) <= 0:
            shown = ", ".join(f"{name}=25{unit}" for unit in units)
            raise UsageError(f"not a budget: {text!r}", hint=f"write a number above 0 and its unit, such as {shown}")
        return cls(name, float(match[1]) * units[match[2].lower()], match[2] == "%", text)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A limit and how it was met. ``value`` and ``met`` are None where the value was not measured."""

    name: str
    limit: str
    value: float | None
    met: bool | None
    shortfall: str | None


def judge(budgets: tuple[Budget, ...], max_drop: float | None, measured: Measurements) -> list[Outcome]:
    """Compare the measurements with every limit."""
    outcomes = [_cost(budget, measured) for budget in budgets]
    if max_drop is not None:
        outcomes.append(_drop(max_drop, measured))
    return outcomes


def _cost(budget: Budget, measured: Measurements) -> Outcome:
    def value(side: str) -> float | None:
        model = getattr(measured, side)
        if budget.name == "latency":
            return None if model.latency is None or model.latency.estimated else float(model.latency.median)
        return float(getattr(model, budget.name))

    got, teacher = value("result"), value("teacher")
    if got is None or teacher is None:
        reason = f"{budget.text}: not measured: {measured.why_no_latency}"
        return Outcome(budget.name, budget.text, None, None, reason)
    limit = budget.limit * teacher if budget.relative else budget.limit
    met = got <= limit
    return Outcome(
        budget.name, budget.text, got, met, None if met else f"{budget.text}: {_figure(got)} is over {_figure(limit)}"
    )


def _drop(max_drop: float, measured: Measurements) -> Outcome:
    teacher, result = measured.teacher.metric, measured.result.metric
    if teacher is None or result is None:
        reason = f"max-drop {max_drop:g}: not measured: {measured.why_no_metric}"
        return Outcome("max-drop", f"{max_drop:g}", None, None, reason)
    lost = drop(teacher.value, result.value, teacher.unit, higher_is_better=teacher.higher_is_better)
    met = lost <= max_drop + 1e-9
    moved = format_movement(teacher.value, result.value, teacher.unit)
    shortfall = None if met else f"max-drop {max_drop:g}: {teacher.name} {moved}"
    return Outcome("max-drop", with_unit(f"{max_drop:g}", teacher.unit), lost, met, shortfall)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
