"""Networks of inverted residuals (Sandler et al. 2018, arXiv 1801.04381), which several families describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.models.common.encoding import MOST_CHANNELS, snap

__all__ = ["Group", "InvertedResiduals"]

_SQUEEZE = 4
"""The attention's inner width is the expanded width through this, a multiple of 8 (arXiv 1905.02244, section 5.3)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Inverted residuals that follow each other: the first has the stride, all have the same width."""

    expansion: int
    width: int
    repeats: int
    stride: int
    kernel: int = 3
    attention: bool = False
    """Squeeze-and-excite behind the depthwise convolution."""


class InvertedResiduals(nn.Module):
    """A 3x3 stem, groups of inverted residuals, a 1x1 convolution, pooling, a linear layer; torchvision's names."""

    def __init__(
        self,
        sizes: tuple[int, int, int, int],
        groups: Sequence[Group],
        stem_stride: int,
        activation: Callable[[], nn.Module],
    ) -> None:
        """Make the network. ``sizes`` are the channels of input, stem and last convolution, and the outputs."""
        super().__init__()
        channels, stem, last, outputs = sizes
        layers: list[nn.Module] = [_unit(channels, stem, 3, activation, stem_stride)]
        inputs = stem
        ends: list[int] = []
        for group in groups:
            if group.stride == 2 and len(layers) > 1:
                ends.append(len(layers) - 1)
            for i in range(group.repeats):
                layers.append(_Inverted(inputs, group, group.stride if i == 0 else 1, activation))
                inputs = group.width
        self.features = nn.Sequential(*layers, _unit(inputs, last, 1, activation))
        self.stages = tuple(f"features.{end}" for end in (*ends, len(layers)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the network as a chain: stem, blocks, head."""
        stem, *blocks = self.features
        return (stem, *blocks, nn.Sequential(self.avgpool, nn.Flatten(), self.classifier))


def _unit(
    inputs: int, outputs: int, size: int, activation: Callable[[], nn.Module], stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Make a convolution, a batch normalisation and the activation."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation())


class _SqueezeExcite(nn.Module):
    """Channels weighted by what their means tell (Hu et al. 2018, arXiv 1709.01507), with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = snap(channels / _SQUEEZE, 8, MOST_CHANNELS)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.relu = nn.Conv2d(channels, inner, 1), nn.ReLU()
        self.fc2, self.gate = nn.Conv2d(inner, channels, 1), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = x * self.gate(self.fc2(self.relu(self.fc1(self.avgpool(x)))))
        return weighted


class _Inverted(nn.Module):
    def __init__(self, inputs: int, group: Group, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        hidden = inputs * group.expansion
        expand = [_unit(inputs, hidden, 1, activation)] if group.expansion > 1 else []
        depthwise = _unit(hidden, hidden, group.kernel, activation, stride, groups=hidden)
        excite = [_SqueezeExcite(hidden)] if group.attention else []
        project = nn.Conv2d(hidden, group.width, 1, bias=False)
        self.conv = nn.Sequential(*expand, depthwise, *excite, project, nn.BatchNorm2d(group.width))
        self.residual = stride == 1 and inputs == group.width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y
