"""Residual networks for small images (He et al. 2016, arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import InputSpec, Json
from compressor.models.common.encoding import MOST_BLOCKS, MOST_CHANNELS, chosen, keys, snapped, varied, wholes
from compressor.models.common.family import SMALL, Shapes, classes, count, initialise, kernel, require

__all__ = ["CifarResNet"]

_NAME = "cifar-resnet"
_WIDTHS = (16, 32, 64)

_DEEPEST = 18
"""Blocks a stage in the search space, at most: those of ResNet-110, the deepest that still gains (table 6)."""
_WIDEST = 512
"""Channels in the search space, at most: those of the last stage of ResNet-18 as drawn for CIFAR."""


@dataclass(frozen=True, slots=True)
class CifarResNet:
    """A 3x3 stem of stride 1, stages of basic blocks, each stage after the first at half the resolution.

    ResNet-20 is ``depths=(3, 3, 3)``; ResNet-18 as drawn for CIFAR is four stages of two, 64 to 512 wide.
    Encodings have three stages and option A. For inputs of more than 64 pixels a side their stem reduces the
    resolution to 33 to 64 pixels, where the first stage of the published networks works.
    """

    task: ClassVar[str] = "classification"
    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 32
    follows_data: ClassVar[bool] = True

    depths: tuple[int, ...]
    """Blocks a stage."""
    widths: tuple[int, ...] = _WIDTHS
    """Channels a stage; the stem has the first."""
    shortcut: Literal["A", "B"] = "A"
    """The shortcut of a stage's first block: ``A`` subsamples and pads zero channels, ``B`` is a 1x1 convolution."""
    outputs: int = 10
    channels: int = 3
    reduction: int = 1
    """The stem's stride, a power of two. The kernel is 2 x stride + 1: no pixel is skipped, and the weights' shape
    shows the stride."""

    def __post_init__(self) -> None:
        where = _NAME
        require(len(self.depths) >= 2, where, f"depths = {self.depths} has fewer than two stages")
        require(len(self.depths) == len(self.widths), where, "depths and widths differ in length")
        require(min(*self.depths, *self.widths, self.outputs, self.channels) > 0, where, "a size is below one")
        widens = all(a <= b for a, b in itertools.pairwise(self.widths))
        require(
            widens or self.shortcut == "B",
            where,
            f"widths = {self.widths}: a stage is narrower than the one before, and option A cannot narrow",
            hint="give each stage at least the width of the one before",
        )
        require(self.reduction.bit_count() == 1, where, f"reduction = {self.reduction} is no power of two")

    @classmethod
    def rename(cls, key: str) -> str:
        key = key.replace(".downsample.", ".shortcut.")
        return f"linear.{key.removeprefix('fc.')}" if key.startswith("fc.") else key

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        stem, outputs = kernel(shapes, "conv1"), classes(shapes, "linear")
        stages = range(1, 1 + count(shapes, "layer{}.0.conv1.weight", start=1))
        firsts = [kernel(shapes, f"layer{i}.0.conv1") for i in stages]
        widths = tuple(first[0] for first in firsts if first)
        if stem is None or outputs is None or len(widths) != len(stages) or len(stages) < 2:
            return None
        reduction = stem[2] // 2
        if stem[2:] != (2 * reduction + 1,) * 2 or reduction.bit_count() != 1 or "layer1.0.conv3.weight" in shapes:
            return None
        depths = tuple(count(shapes, f"layer{i}.{{}}.conv1.weight") for i in stages)
        shortcut: Literal["A", "B"] = "B" if "layer2.0.shortcut.0.weight" in shapes else "A"
        return cls(depths, widths, shortcut, outputs, stem[1], reduction)

    def build(self) -> nn.Module:
        return initialise(_Network(self))

    @classmethod
    def decode(cls, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Self:
        keys(_NAME, encoding, ["depths"], ["widths"])
        depths = wholes(_NAME, "depths", encoding["depths"], 3, MOST_BLOCKS)
        widths = wholes(_NAME, "widths", encoding.get("widths", _WIDTHS), 3, MOST_CHANNELS)
        return cls(depths, widths, "A", outputs, input.channels, _reduction(input))

    def encode(self) -> dict[str, Json]:
        require(len(self.depths) == 3 and self.shortcut == "A", _NAME, f"no encoding describes {self}")
        widths = {} if self.widths == _WIDTHS else {"widths": list(self.widths)}
        return {"depths": list(self.depths), **widths}

    def mutated(self, random: random.Random, multiple: int) -> Self:
        base = replace(self, widths=snapped(self.widths, multiple, _WIDEST))
        depths = varied("depths", base.depths, 1, _DEEPEST)
        widths = varied("widths", base.widths, multiple, _WIDEST)
        widening = [[change for change in kind if list(change[1]) == sorted(change[1])] for kind in widths]
        return replace(base, **chosen(random, [*depths, *widening]))

    @classmethod
    def seeds(cls, input: InputSpec, outputs: int, multiple: int) -> tuple[Self, ...]:
        scales = (0, 1 / 4, 1 / 2, 1, 2, 4)
        ladder = ((depth, [scale * width for width in _WIDTHS]) for scale in scales for depth in (1, 3, 9))
        seeds = (
            cls((depth,) * 3, snapped(widths, multiple, _WIDEST), "A", outputs, input.channels, _reduction(input))
            for depth, widths in ladder
        )
        return tuple(dict.fromkeys(seeds))


def _reduction(input: InputSpec) -> int:
    """Return the smallest stride of the stem that leaves at most 64 pixels a side."""
    reduction = 1
    while -(-max(input.height, input.width) // reduction) > SMALL:
        reduction *= 2
    return reduction


class _PadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides; no parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        before = (outputs - inputs) // 2
        self.padding = (before, outputs - inputs - before)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, ::2, ::2]
        return F.pad(x, (0, 0, 0, 0, *self.padding)) if any(self.padding) else x


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module
        if stride == 1:
            self.shortcut = nn.Identity()
        elif option == "A":
            self.shortcut = _PadShortcut(inputs, outputs)
        else:
            project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        z: Tensor = self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
        return z


class _Network(nn.Module):
    def __init__(self, arch: CifarResNet) -> None:
        super().__init__()
        width = arch.widths[0]
        stride = arch.reduction
        self.conv1 = nn.Conv2d(arch.channels, width, 2 * stride + 1, stride, padding=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stages = tuple(f"layer{i}" for i in range(1, 1 + len(arch.depths)))
        for i, (stage, depth, outputs) in enumerate(zip(self.stages, arch.depths, arch.widths, strict=True)):
            first = _Block(width, outputs, 1 if i == 0 else 2, arch.shortcut)
            rest = (_Block(outputs, outputs, 1, arch.shortcut) for _ in range(depth - 1))
            self.add_module(stage, nn.Sequential(first, *rest))
            width = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, arch.outputs)

    def features(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to the last feature map."""
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        logits: Tensor = self.linear(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the network as a chain: stem, blocks, head."""
        stem = nn.Sequential(self.conv1, self.bn1, self.relu)
        head = nn.Sequential(self.avgpool, nn.Flatten(), self.linear)
        return (stem, *(block for stage in self.stages for block in self.get_submodule(stage).children()), head)
