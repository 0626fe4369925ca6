"""The compute of a student at each resolution: the capacity term of the default score."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

from compressor.scores.common.probe import Probe

__all__ = ["StageMacs"]


@dataclass(frozen=True)
class StageMacs:
    """The weighted mean over resolutions of log MACs, the smallest resolution first with weights 1, decay, decay^2 ...

    By the logarithm no resolution makes up for another, and by the mean networks with different numbers of
    resolutions can be compared. Small resolutions weigh more, where the same MACs hold more parameters. A resolution of
    at most ``positions`` positions is left out, unless there is no other: compute spent there hardly helps.
    It needs no forward pass with values. benchmarks/rank_quality.py is the evidence for the two numbers.
    """

    decay: float = 0.85
    positions: int = 4

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        macs: defaultdict[int, int] = defaultdict(int)
        for layer in probe.layers:
            macs[math.prod(layer.output_size)] += layer.macs
        if not macs:
            return -math.inf
        sizes = [size for size in sorted(macs) if size > self.positions] or sorted(macs)
        weights = [self.decay**i for i in range(len(sizes))]
        total = sum(weight * math.log(macs[size]) for weight, size in zip(weights, sizes, strict=True))
        return total / sum(weights)
