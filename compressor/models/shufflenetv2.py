"""ShuffleNetV2 (Ma et al. 2018, arXiv 1807.11164), under torchvision's names."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from compressor.core import InputSpec, Json
from compressor.models.common.encoding import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    chosen,
    keys,
    snap,
    snapped,
    steps,
    varied,
    wholes,
)
from compressor.models.common.family import Shapes, classes, count, initialise, kernel, require, small

__all__ = ["ShuffleNetV2"]

_NAME = "shufflenetv2"
_STEM = 24

# The paper's table 5: 0.5x, 1x, 1.5x and 2x.
_PUBLISHED = ((48, 96, 192, 1024), (116, 232, 464, 1024), (176, 352, 704, 1024), (244, 488, 976, 2048))

_DEEPEST = 16
"""Basic units a stage in the search space, at most: twice those of the published networks' longest stage."""
_WIDEST = 1024
"""Channels of a stage in the search space, at most: those of the published 2x network, rounded up."""
_LAST = 8192
"""Channels of the last convolution in the search space, at most: four times those of the published 2x network."""


@dataclass(frozen=True, slots=True)
class ShuffleNetV2:
    """A stem, stages of one downsampling unit and then basic ones, a 1x1 convolution to the last width.

    Encodings have three stages, each with at least one basic unit, and a stem of 24 channels. A unit's convolutions
    have half the stage's channels, so a search rounds the halves to the target's multiple.
    """

    task: ClassVar[str] = "classification"
    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 224
    follows_data: ClassVar[bool] = False

    out_channels: tuple[int, ...] = (116, 232, 464, 1024)
    """Channels of each stage, then of the last convolution. A stage's are even, for its units work on halves."""
    num_blocks: tuple[int, ...] = (3, 7, 3)
    """Basic units a stage, not counting its downsampling unit."""
    stem: int = _STEM
    """Channels of the stem."""
    small: bool = False
    """For small inputs: a 1x1 stem that keeps the resolution, and no pooling."""
    outputs: int = 1000
    channels: int = 3

    def __post_init__(self) -> None:
        where = _NAME
        require(
            len(self.out_channels) == len(self.num_blocks) + 1 > 1,
            where,
            "out_channels needs one item more than num_blocks",
        )
        sizes = (*self.out_channels, self.stem, self.outputs, self.channels)
        require(min(sizes) > 0 and min(self.num_blocks) >= 0, where, "a size is below one")
        require(
            all(width % 2 == 0 for width in self.out_channels[:-1]),
            where,
            f"out_channels = {self.out_channels}: a stage's width is odd",
            hint="give the stages even widths: their units work on halves",
        )

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
        return cls((*widths, last[0]), repeats, stem[0], stem[2:] == (1, 1), outputs, channels=stem[1])

    def build(self) -> nn.Module:
        return initialise(_Network(self))

    @classmethod
    def decode(cls, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Self:
        keys(_NAME, encoding, ["out_channels", "num_blocks"])
        out_channels = wholes(_NAME, "out_channels", encoding["out_channels"], 4, MOST_CHANNELS)
        repeats = wholes(_NAME, "num_blocks", encoding["num_blocks"], 3, MOST_BLOCKS)
        return cls(out_channels, repeats, _STEM, small(input), outputs, input.channels)

    def encode(self) -> dict[str, Json]:
        described = len(self.num_blocks) == 3 and min(self.num_blocks) > 0 and self.stem == _STEM
        require(described, _NAME, f"no encoding describes {self}")
        return {"out_channels": list(self.out_channels), "num_blocks": list(self.num_blocks)}

    def mutated(self, random: random.Random, multiple: int) -> Self:
        base = replace(self, out_channels=_on_grid(self.out_channels, multiple))
        *stages, last = base.out_channels
        repeats = varied("num_blocks", base.num_blocks, 1, _DEEPEST)
        widths = varied("out_channels", tuple(stages), 2 * multiple, _WIDEST)
        with_last = [[(field, (*w, last)) for field, w in kind] for kind in widths]
        lasts = [[("out_channels", (*stages, w)) for w in kind] for kind in steps(last, multiple, _LAST)]
        return replace(base, **chosen(random, [*repeats, *with_last, *lasts]))

    @classmethod
    def seeds(cls, input: InputSpec, outputs: int, multiple: int) -> tuple[Self, ...]:
        narrow = ([scale * width for width in _PUBLISHED[0]] for scale in (0, 1 / 4, 1 / 2))
        ladder = ((widths, repeats) for widths in (*narrow, *_PUBLISHED) for repeats in ((1, 1, 1), (3, 7, 3)))
        seeds = (
            cls(_on_grid(widths, multiple), repeats, _STEM, small(input), outputs, input.channels)
            for widths, repeats in ladder
        )
        return tuple(dict.fromkeys(seeds))


def _on_grid(out_channels: Sequence[float], multiple: int) -> tuple[int, ...]:
    *stages, last = out_channels
    return (*snapped(stages, 2 * multiple, _WIDEST), snap(last, multiple, _LAST))


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
        stages = [f"stage{i}" for i in range(2, 2 + len(arch.num_blocks))]
        *widths, last = arch.out_channels
        inputs = arch.stem
        for stage, width, repeats in zip(stages, widths, arch.num_blocks, strict=True):
            basic = (_Unit(width, width, 1) for _ in range(repeats))
            self.add_module(stage, nn.Sequential(_Unit(inputs, width, 2), *basic))
            inputs = width
        self.conv5 = nn.Sequential(*_pointwise(inputs, last))
        self.body = (*stages, "conv5")
        # The last convolution works at the last stage's resolution; its map is what the classifier sees.
        self.stages = (*stages[:-1], "conv5")
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, arch.outputs)

    def features(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to the last feature map."""
        x = self.maxpool(self.conv1(x))
        for part in self.body:
            x = self.get_submodule(part)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the network as a chain: stem, blocks, head."""
        stem = nn.Sequential(self.conv1, self.maxpool)
        head = nn.Sequential(self.avgpool, nn.Flatten(), self.fc)
        return (
            stem,
            *(unit for part in self.body[:-1] for unit in self.get_submodule(part).children()),
            self.conv5,
            head,
        )
