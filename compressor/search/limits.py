"""Budgets as limits of a student's parameters, multiply-accumulates, bytes and latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from compressor.budgets import Budget
from compressor.core import Model
from compressor.models.common.cost import Cost

__all__ = ["Limits", "loosened"]

_LOOSER = 1.5


@dataclass(frozen=True)
class Limits:
    """The largest value of each figure that a student may have; infinite without a budget."""

    params: float = math.inf
    macs: float = math.inf
    bytes: float = math.inf
    """The bytes of the deployed file."""
    latency: float = math.inf
    """The latency as a share of the teacher's."""

    @classmethod
    def of(cls, budgets: Sequence[str], teacher: Model, size: int, milliseconds: float) -> Self:
        """Return the limits of budgets as the command line writes them.

        ``size`` is the teacher's file in bytes and ``milliseconds`` its latency; shares are shares of the teacher's
        figures. The tightest of several budgets for one figure counts.
        """
        own = {"params": teacher.params, "macs": teacher.macs, "bytes": size, "latency": milliseconds}
        limits: dict[str, float] = {}
        for budget in map(Budget.parse, budgets):
            limit = budget.limit * own[budget.name] if budget.relative else budget.limit
            limits[budget.name] = min(limit, limits.get(budget.name, math.inf))
        if "latency" in limits:
            limits["latency"] /= milliseconds
        return cls(**limits)

    def allow(self, cost: Cost, bytes_per_param: float) -> bool:
        """Tell whether a student's counts obey; of its file only the parameters are counted.

        The bytes of scales and graph are known, and counted, when a finalist is measured.
        """
        stored = cost.params * bytes_per_param
        return cost.params <= self.params and cost.macs <= self.macs and stored <= self.bytes


def loosened(text: str) -> str:
    """Return a budget that is a share of the teacher's raised by half, to 100 % at most; other budgets unchanged."""
    budget = Budget.parse(text)
    if not budget.relative or budget.limit >= 1:
        return text
    return f"{budget.name}={100 * min(1.0, _LOOSER * budget.limit):g}%"
