"""Residual networks for large images (He et al. 2016, arXiv 1512.03385), under torchvision's names."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from compressor.core import InputSpec, Json
from compressor.models.common.encoding import MOST_BLOCKS, MOST_CHANNELS, chosen, keys, one_of, snapped, varied, wholes
from compressor.models.common.family import Shapes, classes, count, initialise, kernel, require, small

__all__ = ["ResNet"]

_NAME = "resnet"
_WIDTHS = (64, 128, 256, 512)
_DEEPEST = 8
"""Blocks a stage in the search space, at most: two more than ResNet-34 and ResNet-50 have."""
_WIDEST = 512
"""Channels of a stage's 3x3 convolutions in the search space, at most: those of the published networks."""
_EXPANSION = {"basic": 1, "bottleneck": 4}


@dataclass(frozen=True, slots=True)
class ResNet:
    """A 7x7 stem of stride 2 and a pooling, then stages of blocks. ResNet-50 is bottlenecks of (3, 4, 6, 3).

    An encoding has four stages: ``{"block": "basic", "depths": [2, 2, 2, 2], "widths": [64, 128, 256, 512]}``.
    Block and widths may be left out; these are their defaults.
    """

    task: ClassVar[str] = "classification"
    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 224
    follows_data: ClassVar[bool] = False

    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks a stage."""
    widths: tuple[int, ...] = _WIDTHS
    """Channels of a stage's 3x3 convolutions; a bottleneck's outputs are four times as wide. The stem has the first."""
    outputs: int = 1000
    channels: int = 3
    small: bool = False
    """For small inputs: a 3x3 stem that keeps the resolution, and no pooling."""

    def __post_init__(self) -> None:
        require(len(self.depths) == len(self.widths) > 0, _NAME, "depths and widths differ in length")
        require(min(*self.depths, *self.widths, self.outputs, self.channels) > 0, _NAME, "a size is below one")

    @classmethod
    def rename(cls, key: str) -> str:
        return key

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        """Basic blocks behind a small stem are left to ``cifar-resnet``, whose option B they are."""
        stem, outputs = kernel(shapes, "conv1"), classes(shapes, "fc")
        stages = range(1, 1 + count(shapes, "layer{}.0.conv1.weight", start=1))
        firsts = [kernel(shapes, f"layer{i}.0.conv1") for i in stages]
        widths = tuple(first[0] for first in firsts if first)
        if stem is None or outputs is None or len(widths) != len(stages) or not stages:
            return None
        depths = tuple(count(shapes, f"layer{i}.{{}}.conv1.weight") for i in stages)
        block: Literal["basic", "bottleneck"] = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
        if stem[2:] != (7, 7) and (stem[2:] != (3, 3) or block == "basic"):
            return None
        return cls(block, depths, widths, outputs, stem[1], small=stem[2:] == (3, 3))

    def build(self) -> nn.Module:
        return initialise(_Network(self))

    @classmethod
    def decode(cls, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Self:
        keys(_NAME, encoding, ["depths"], ["block", "widths"])
        block: Any = one_of(_NAME, "block", encoding.get("block", "basic"), list(_EXPANSION))
        depths = wholes(_NAME, "depths", encoding["depths"], 4, MOST_BLOCKS)
        widths = wholes(_NAME, "widths", encoding.get("widths", _WIDTHS), 4, MOST_CHANNELS)
        return cls(block, depths, widths, outputs, input.channels, small(input))

    def encode(self) -> dict[str, Json]:
        require(len(self.depths) == 4, _NAME, f"no encoding describes {self}")
        block = {} if self.block == "basic" else {"block": self.block}
        widths = {} if self.widths == _WIDTHS else {"widths": list(self.widths)}
        return {**block, "depths": list(self.depths), **widths}

    def mutated(self, random: random.Random, multiple: int) -> Self:
        base = replace(self, widths=snapped(self.widths, multiple, _WIDEST))
        depths = varied("depths", base.depths, 1, _DEEPEST)
        widths = varied("widths", base.widths, multiple, _WIDEST)
        other = ("block", "basic" if base.block == "bottleneck" else "bottleneck")
        return replace(base, **chosen(random, [*depths, *widths, [other]]))

    @classmethod
    def seeds(cls, input: InputSpec, outputs: int, multiple: int) -> tuple[Self, ...]:
        """Basic blocks, down from ResNet-34 and ResNet-18."""
        depths, scales = ((1, 1, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3)), (0, 1 / 8, 1 / 4, 1 / 2, 1)
        ladder = ((d, [scale * width for width in _WIDTHS]) for scale in scales for d in depths)
        seeds = (
            cls("basic", d, snapped(widths, multiple, _WIDEST), outputs, input.channels, small(input))
            for d, widths in ladder
        )
        return tuple(dict.fromkeys(seeds))


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _Basic(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        z: Tensor = self.relu(self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x)))
        return z


class _Bottleneck(nn.Module):
    """The stride is on the 3x3 convolution, as torchvision's published weights have it."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION["bottleneck"]
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        z: Tensor = self.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))
        return z


class _Network(nn.Module):
    def __init__(self, arch: ResNet) -> None:
        super().__init__()
        inputs = arch.widths[0]
        size, stride = (3, 1) if arch.small else (7, 2)
        self.conv1 = nn.Conv2d(arch.channels, inputs, size, stride, padding=size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if arch.small else nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = tuple(f"layer{i}" for i in range(1, 1 + len(arch.depths)))
        block = _Basic if arch.block == "basic" else _Bottleneck
        for i, (stage, depth, width) in enumerate(zip(self.stages, arch.depths, arch.widths, strict=True)):
            first = block(inputs, width, 1 if i == 0 else 2)
            inputs = width * _EXPANSION[arch.block]
            self.add_module(stage, nn.Sequential(first, *(block(inputs, width, 1) for _ in range(depth - 1))))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, arch.outputs)

    def features(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to the last feature map."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the network as a chain: stem, blocks, head."""
        stem = nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool)
        head = nn.Sequential(self.avgpool, nn.Flatten(), self.fc)
        return (stem, *(block for stage in self.stages for block in self.get_submodule(stage).children()), head)
