"""The number of parameters as a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compressor.scores.common.probe import Probe

__all__ = ["Params"]


@dataclass(frozen=True)
class Params:
    """The number of parameters."""

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        return float(probe.cost.params)
