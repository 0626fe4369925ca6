"""The number of layers as a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compressor.scores.common.probe import Probe

__all__ = ["Depth"]


@dataclass(frozen=True)
class Depth:
    """The number of convolutions and linear layers."""

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        return float(len(probe.layers))
