"""How wide a student is at each resolution: the capacity prior of the default score."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from compressor.scores._probe import Probe

__all__ = ["Width"]


@dataclass(frozen=True)
class Width:
    """The sum over resolutions of the mean of log C, C the output channels of each ungrouped convolution there.

    Every resolution is a bottleneck that no other one makes up for, so resolutions count alike, and
    doublings count alike; repeating a layer changes nothing. What works on pooled values, such as an
    attention, is left out: no map has that resolution. It needs no forward pass.
    Networks that make images have one resolution: it is not for them.
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
