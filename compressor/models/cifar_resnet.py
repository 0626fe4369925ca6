"""Residual networks for small images (He et al. 2016, arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.models._family import Shapes, classes, count, initialise, kernel, require

__all__ = ["CifarResNet"]


@dataclass(frozen=True, slots=True)
class CifarResNet:
    """A 3x3 stem of stride 1, stages of basic blocks, each stage after the first at half the resolution.

    ResNet-20 is ``depths=(3, 3, 3)``; ResNet-18 as drawn for CIFAR is four stages of two, 64 to 512 wide.
    """

    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 32
    follows_data: ClassVar[bool] = True

    depths: tuple[int, ...]
    """Blocks a stage."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels a stage; the stem has the first."""
    shortcut: Literal["A", "B"] = "A"
    """Past a stage's first block: ``A`` subsamples and pads with zero channels, ``B`` is a 1x1 convolution."""
    outputs: int = 10
    channels: int = 3

    def __post_init__(self) -> None:
        where = "cifar-resnet"
        require(len(self.depths) >= 2, where, f"depths = {self.depths} has fewer than two stages")
        require(len(self.depths) == len(self.widths), where, "depths and widths differ in length")
        require(min(*self.depths, *self.widths, self.outputs, self.channels) > 0, where, "a size is below one")
        widens = all(a <= b for a, b in itertools.pairwise(self.widths))
        require(widens or self.shortcut == "B", where, f'shortcut "A" cannot narrow: widths = {self.widths}')

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
        if stem is None or stem[2:] != (3, 3) or outputs is None or len(widths) != len(stages) or len(stages) < 2:
            return None
        depths = tuple(count(shapes, f"layer{i}.{{}}.conv1.weight") for i in stages)
        shortcut: Literal["A", "B"] = "B" if "layer2.0.shortcut.0.weight" in shapes else "A"
        return cls(depths, widths, shortcut, outputs, channels=stem[1])

    def build(self) -> nn.Module:
        return initialise(_Network(self))


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
        self.shortcut: nn.Module
        if stride == 1:
            self.shortcut = nn.Identity()
        elif option == "A":
            self.shortcut = _PadShortcut(inputs, outputs)
        else:
            project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class _Network(nn.Module):
    def __init__(self, arch: CifarResNet) -> None:
        super().__init__()
        width = arch.widths[0]
        self.conv1 = nn.Conv2d(arch.channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = [f"layer{i}" for i in range(1, 1 + len(arch.depths))]
        for i, (stage, depth, outputs) in enumerate(zip(self.stages, arch.depths, arch.widths, strict=True)):
            first = _Block(width, outputs, 1 if i == 0 else 2, arch.shortcut)
            rest = (_Block(outputs, outputs, 1, arch.shortcut) for _ in range(depth - 1))
            self.add_module(stage, nn.Sequential(first, *rest))
            width = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, arch.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.linear(torch.flatten(self.avgpool(x), 1))
        return logits
