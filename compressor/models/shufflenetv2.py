"""ShuffleNetV2 (Ma et al. 2018, arXiv 1807.11164), under torchvision's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from compressor.models._family import Shapes, classes, count, initialise, kernel, require

__all__ = ["ShuffleNetV2"]


@dataclass(frozen=True, slots=True)
class ShuffleNetV2:
    """A stem, stages of one downsampling unit and then basic ones, a 1x1 convolution to the last width."""

    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 224
    follows_data: ClassVar[bool] = False

    out_channels: tuple[int, ...] = (116, 232, 464, 1024)
    """Width of each stage, then of the last convolution. A stage's is even: its units work on halves."""
    num_blocks: tuple[int, ...] = (3, 7, 3)
    """Basic units a stage, after its downsampling unit."""
    stem: int = 24
    """Width of the stem."""
    small: bool = False
    """For small inputs: a 1x1 stem that keeps the resolution, and no pooling."""
    outputs: int = 1000
    channels: int = 3

    def __post_init__(self) -> None:
        where = "shufflenetv2"
        require(len(self.out_channels) == len(self.num_blocks) + 1 > 1, where, "out_channels is num_blocks' and a last")
        sizes = (*self.out_channels, self.stem, self.outputs, self.channels)
        require(min(sizes) > 0 and min(self.num_blocks) >= 0, where, "a size is below one")
        require(all(width % 2 == 0 for width in self.out_channels[:-1]), where, "a stage's width is odd")

    @classmethod
    def rename(cls, key: str) -> str:
        return key

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        stem, outputs = kernel(shapes, "conv1.0"), classes(shapes, "fc")
        stages = range(2, 2 + count(shapes, "stage{}.0.branch1.0.weight", start=2))
        halves = [kernel(shapes, f"stage{i}.0.branch2.0") for i in stages]
        widths = tuple(2 * half[0] for half in halves if half)
        last = kernel(shapes, "conv5.0")
        if stem is None or outputs is None or last is None or len(widths) != len(stages) or not stages:
            return None
        repeats = tuple(count(shapes, f"stage{i}.{{}}.branch2.0.weight", start=1) for i in stages)
        small = stem[2:] == (1, 1)
        return cls((*widths, last[0]), repeats, stem[0], small, outputs, channels=stem[1])

    def build(self) -> nn.Module:
        return initialise(_Network(self))


def _pointwise(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _depthwise(width: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False), nn.BatchNorm2d(width)


class _Unit(nn.Module):
    """The paper's figure 3: (c) the basic unit, (d) the one that halves the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.branch1: nn.Module = nn.Sequential()
        if stride == 2:
            self.branch1 = nn.Sequential(*_depthwise(inputs, stride), *_pointwise(inputs, half))
        entry = _pointwise(inputs if stride == 2 else half, half)
        self.branch2 = nn.Sequential(*entry, *_depthwise(half, stride), *_pointwise(half, half))
        self.splits = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, dim=1) if self.splits else (x, x)
        halves = torch.cat((self.branch1(kept), self.branch2(worked)), dim=1)
        # The shuffle: channels of the two halves alternate.
        shuffled: Tensor = halves.unflatten(1, (2, halves.shape[1] // 2)).transpose(1, 2).flatten(1, 2)
        return shuffled


class _Network(nn.Module):
    def __init__(self, arch: ShuffleNetV2) -> None:
        super().__init__()
        size, stride = (1, 1) if arch.small else (3, 2)
        conv = nn.Conv2d(arch.channels, arch.stem, size, stride, padding=size // 2, bias=False)
        self.conv1 = nn.Sequential(conv, nn.BatchNorm2d(arch.stem), nn.ReLU(inplace=True))
        self.maxpool = nn.Identity() if arch.small else nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = [f"stage{i}" for i in range(2, 2 + len(arch.num_blocks))]
        *widths, last = arch.out_channels
        inputs = arch.stem
        for stage, width, repeats in zip(self.stages, widths, arch.num_blocks, strict=True):
            basic = (_Unit(width, width, 1) for _ in range(repeats))
            self.add_module(stage, nn.Sequential(_Unit(inputs, width, 2), *basic))
            inputs = width
        self.conv5 = nn.Sequential(*_pointwise(inputs, last))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, arch.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        x = self.maxpool(self.conv1(x))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.conv5(x)), 1))
        return logits
