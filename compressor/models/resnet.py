"""Residual networks for large images (He et al. 2016, arXiv 1512.03385), under torchvision's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.models._family import Shapes, classes, count, initialise, kernel, require

__all__ = ["ResNet"]

_EXPANSION = {"basic": 1, "bottleneck": 4}


@dataclass(frozen=True, slots=True)
class ResNet:
    """A 7x7 stem of stride 2 and a pooling, then stages of blocks. ResNet-50 is bottlenecks of (3, 4, 6, 3)."""

    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 224
    follows_data: ClassVar[bool] = False

    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks a stage."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of a stage's 3x3 convolutions; a bottleneck's outputs are four times as wide. The stem has the first."""
    outputs: int = 1000
    channels: int = 3

    def __post_init__(self) -> None:
        require(len(self.depths) == len(self.widths) > 0, "resnet", "depths and widths differ in length")
        require(min(*self.depths, *self.widths, self.outputs, self.channels) > 0, "resnet", "a size is below one")

    @classmethod
    def rename(cls, key: str) -> str:
        return key

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        stem, outputs = kernel(shapes, "conv1"), classes(shapes, "fc")
        stages = range(1, 1 + count(shapes, "layer{}.0.conv1.weight", start=1))
        firsts = [kernel(shapes, f"layer{i}.0.conv1") for i in stages]
        widths = tuple(first[0] for first in firsts if first)
        if stem is None or stem[2:] != (7, 7) or outputs is None or len(widths) != len(stages) or not stages:
            return None
        depths = tuple(count(shapes, f"layer{i}.{{}}.conv1.weight") for i in stages)
        block: Literal["basic", "bottleneck"] = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
        return cls(block, depths, widths, outputs, channels=stem[1])

    def build(self) -> nn.Module:
        return initialise(_Network(self))


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
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x)))


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
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class _Network(nn.Module):
    def __init__(self, arch: ResNet) -> None:
        super().__init__()
        inputs = arch.widths[0]
        self.conv1 = nn.Conv2d(arch.channels, inputs, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = [f"layer{i}" for i in range(1, 1 + len(arch.depths))]
        block = _Basic if arch.block == "basic" else _Bottleneck
        for i, (stage, depth, width) in enumerate(zip(self.stages, arch.depths, arch.widths, strict=True)):
            first = block(inputs, width, 1 if i == 0 else 2)
            inputs = width * _EXPANSION[arch.block]
            self.add_module(stage, nn.Sequential(first, *(block(inputs, width, 1) for _ in range(depth - 1))))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, arch.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits
