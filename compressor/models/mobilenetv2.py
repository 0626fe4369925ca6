"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), under torchvision's names."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from compressor.core import UsageError
from compressor.models._family import Shapes, classes, count, initialise, kernel, require

__all__ = ["MobileNetV2"]

# The paper's table 2: expansion, width, repeats and the stride of the first.
_PUBLISHED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(frozen=True, slots=True)
class MobileNetV2:
    """A 3x3 stem, groups of inverted residuals, a 1x1 convolution to ``last`` channels."""

    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 224
    follows_data: ClassVar[bool] = False

    blocks: tuple[tuple[int, int, int, int], ...] = _PUBLISHED
    """Groups of inverted residuals: expansion t, width c, n repeats, the first of stride s."""
    last: int = 1280
    stem: int = 32
    """Width of the stem."""
    small: bool = False
    """For small inputs: the stem keeps the resolution."""
    outputs: int = 1000
    channels: int = 3

    def __post_init__(self) -> None:
        require(len(self.blocks) > 0, "mobilenetv2", "blocks is empty")
        sizes = (*itertools.chain(*self.blocks), self.last, self.stem, self.outputs, self.channels)
        require(min(sizes) > 0, "mobilenetv2", "a size is below one")
        require(all(s in (1, 2) for *_, s in self.blocks), "mobilenetv2", "a stride is neither 1 nor 2")

    @classmethod
    def rename(cls, key: str) -> str:
        return key

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        """Shapes do not show strides, so the repeats must be the published ones; the widths are free."""
        stem, outputs = kernel(shapes, "features.0.0"), classes(shapes, "classifier.1")
        bodies = count(shapes, "features.{}.conv.0.0.weight", start=1)
        last = kernel(shapes, f"features.{bodies + 1}.0")
        if stem is None or outputs is None or last is None or not bodies:
            return None
        if bodies != sum(n for _, _, n, _ in _PUBLISHED):
            raise UsageError(
                f"this looks like mobilenetv2, but it has {bodies} blocks: their strides cannot be seen in the weights",
                mend="name the code that builds it: --arch package.module:callable",
            )
        blocks, inputs, at = [], stem[0], 1
        for _, _, repeats, stride in _PUBLISHED:
            # The first convolution expands, or, where nothing is expanded, is the depthwise one itself.
            hidden = kernel(shapes, f"features.{at}.conv.0.0")
            project = kernel(shapes, f"features.{at}.conv.2") or kernel(shapes, f"features.{at}.conv.1")
            if hidden is None or project is None:
                return None
            blocks.append((max(1, hidden[0] // inputs), project[0], repeats, stride))
            inputs, at = project[0], at + repeats
        return cls(tuple(blocks), last[0], stem[0], False, outputs, channels=stem[1])

    def build(self) -> nn.Module:
        return initialise(_Network(self))


def _unit(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU6."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [_unit(inputs, hidden, 1)] if expansion > 1 else []
        depthwise = _unit(hidden, hidden, 3, stride, groups=hidden)
        project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.conv = nn.Sequential(*expand, depthwise, project, nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class _Network(nn.Module):
    def __init__(self, arch: MobileNetV2) -> None:
        super().__init__()
        layers: list[nn.Module] = [_unit(arch.channels, arch.stem, 3, stride=1 if arch.small else 2)]
        inputs = arch.stem
        for expansion, width, repeats, stride in arch.blocks:
            for i in range(repeats):
                layers.append(_Inverted(inputs, width, stride if i == 0 else 1, expansion))
                inputs = width
        self.features = nn.Sequential(*layers, _unit(inputs, arch.last, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(arch.last, arch.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits
