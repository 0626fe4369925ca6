"""The width of a student at each resolution: the capacity prior of the default score."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from compressor.scores.common.probe import Probe

__all__ = ["Width"]


@dataclass(frozen=True)
class Width:
    """The sum over resolutions of the mean of log C over the ungrouped convolutions there, with C output channels.

    Every resolution is a bottleneck that no other one makes up for, so every resolution has the same weight. By the
    logarithm every doubling of C counts the same, and by the mean repeating a layer changes nothing. Layers on
    pooled values, such as an attention's, are left out. It needs no forward pass.
    It does not apply to networks that make images, which have one resolution.
    """

    needs_teacher: ClassVar[bool] = False
    for_images: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        widths: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
        pooled, before = False, (1, 1)
        for layer in probe.layers:
            pooled = layer.input_size == (1, 1) and (pooled or before != (1, 1))
            before = layer.output_size
            if layer.kind == "conv" and layer.groups == 1 and not pooled:
                widths[layer.output_size].append(math.log(layer.outputs))
        return sum(fmean(logs) for logs in widths.values())
