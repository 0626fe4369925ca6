"""The number of multiply-accumulates as a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compressor.scores.common.probe import Probe

__all__ = ["Macs"]


@dataclass(frozen=True)
class Macs:
    """The multiply-accumulates of one sample's convolutions and linear layers."""

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        return float(probe.cost.macs)
