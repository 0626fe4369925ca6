"""The networks of public benchmarks, as any user's modules: built from a row of the truth, by the truth's own rule.

Each builder takes the row's ``arch`` and the number of classes. `SPACES` has, for each truth, its builder, the size of
its images, its classes and the column of accuracies. ``resnets`` is DisWOT's S0: CIFAR ResNets of 1, 3, 5 or 7 blocks a
stage (github.com/lliai/DisWOT-CVPR2023, exps/s1-gt-kd.txt: distilled on CIFAR-100).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["SPACES", "Candidate", "Space", "accel", "macro", "mobilenet", "resnets", "shufflenet"]


def _conv(a: int, b: int, k: int = 1, s: int = 1, groups: int = 1, act: bool = True) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(a, b, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(b)]
    return [*layers, nn.ReLU(inplace=True)] if act else layers


class _Squeeze(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.nn.functional.hardsigmoid(self.up(torch.relu(self.down(pooled))))


class _Inverted(nn.Module):
    """MBConv: 1x1 to ``inner`` channels (absent where that is the input's), depthwise, 1x1."""

    def __init__(self, a: int, b: int, k: int, s: int, inner: int, squeeze: int = 0, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual and s == 1 and a == b
        self.body = nn.Sequential(
            *(_conv(a, inner) if inner != a else ()),
            *_conv(inner, inner, k, s, inner),
            *((_Squeeze(inner, squeeze),) if squeeze else ()),
            *_conv(inner, b, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x)
        return x + made if self.residual else made


def _classifier(layers: Sequence[nn.Module], width: int, classes: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def macro(arch: str, classes: int) -> nn.Module:
    """NAS-Bench-Macro: eight layers, each identity, MBConv 3x3 or MBConv 5x5."""
    layers, width = _conv(3, 32, 3), 32
    for place, digit in enumerate(arch):
        first = place in (0, 2, 5)
        out = 2 * width if first else width
        stride = 2 if first else 1
        if digit != "0":
            k, expand = {"1": (3, 3), "2": (5, 6)}[digit]
            layers.append(_Inverted(width, out, k, stride, width * expand, residual=not first))
        elif first:
            layers += _conv(width, out, 1, 2, act=False)
        width = out
    return _classifier([*layers, *_conv(width, 1280)], 1280, classes)


def accel(arch: Mapping[str, Sequence[int]], classes: int) -> nn.Module:
    """Accel-NASBench: MnasNet-like, seven stages of MBConv with optional squeeze and excitation."""
    widths, strides = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 2, 1, 2, 1)
    layers, width = _conv(3, 32, 3, 2), 32
    for stage, (out, stride) in enumerate(zip(widths, strides, strict=True)):
        for block in range(arch["l"][stage]):
            inner = width * arch["e"][stage]
            squeeze = max(1, width // 4) if arch["se"][stage] else 0
            layers.append(_Inverted(width, out, arch["k"][stage], stride if block == 0 else 1, inner, squeeze))
            width = out
    return _classifier([*layers, *_conv(width, 1280)], 1280, classes)


def mobilenet(arch: Sequence[Sequence[int]], classes: int) -> nn.Module:
    """MobileNetV2 of rows (expansion, width, repeats, stride); the last row's width is the last convolution's."""
    layers, width = _conv(3, 32, 3), 32
    for expand, out, repeats, stride in arch[:-1]:
        for block in range(repeats):
            layers.append(_Inverted(width, out, 3, stride if block == 0 else 1, width * expand))
            width = out
    return _classifier([*layers, *_conv(width, arch[-1][1])], arch[-1][1], classes)


class _Shuffle(nn.Module):
    """ShuffleNetV2's unit (Ma et al. 2018, figure 3): two branches, joined and shuffled."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        half = b // 2
        self.down = stride == 2
        source = a if self.down else half
        self.right = nn.Sequential(
            *_conv(source, half), *_conv(half, half, 3, stride, half, act=False), *_conv(half, half)
        )
        self.left = nn.Sequential(*_conv(a, a, 3, 2, a, act=False), *_conv(a, half)) if self.down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.down else x.chunk(2, 1)
        joined = torch.cat([self.left(left), self.right(right)], 1)
        n, c, h, w = joined.shape
        return joined.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet(arch: Mapping[str, Sequence[int]], classes: int) -> nn.Module:
    """ShuffleNetV2 with a 1x1 stem of 24 channels and three stages."""
    layers, width = _conv(3, 24), 24
    for out, blocks in zip(arch["out_channels"], arch["num_blocks"], strict=False):
        layers.append(_Shuffle(width, out, 2))
        layers += [_Shuffle(out, out, 1) for _ in range(blocks)]
        width = out
    last = arch["out_channels"][-1]
    return _classifier([*layers, *_conv(width, last)], last, classes)


class _Basic(nn.Module):
    """ResNet's basic block, with a 1x1 convolution where the shape changes."""

    def __init__(self, a: int, b: int, s: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(a, b, 3, s), *_conv(b, b, 3, act=False))
        self.shortcut = nn.Sequential(*_conv(a, b, 1, s, act=False)) if s != 1 or a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnets(arch: Sequence[int], classes: int) -> nn.Module:
    """CIFAR ResNet of basic blocks: 16, 32 and 64 channels, ``arch`` blocks a stage."""
    layers, width = _conv(3, 16, 3), 16
    for stage, (out, blocks) in enumerate(zip((16, 32, 64), arch, strict=True)):
        for block in range(blocks):
            layers.append(_Basic(width, out, 2 if stage and block == 0 else 1))
            width = out
    return _classifier(layers, width, classes)


class Space(NamedTuple):
    """A public truth: how its networks are built, and where the accuracies stand."""

    build: Callable[[Any, int], nn.Module]
    side: int
    classes: int
    truth: str


SPACES: Mapping[str, Space] = {
    "shufflenetv2_cifar100": Space(shufflenet, 32, 100, "kd_third"),
    "mobilenetv2_cifar100": Space(mobilenet, 32, 100, "kd_third"),
    "nas_bench_macro_cifar10": Space(macro, 32, 10, "acc"),
    "accel_nasbench_imagenet": Space(accel, 224, 1000, "top1"),
    "resnets_cifar100": Space(resnets, 32, 100, "kd"),
}


@dataclass(frozen=True)
class Candidate:
    """A network of a public space."""

    space: str
    arch: str
    """As JSON."""

    def build(self) -> nn.Module:
        space = SPACES[self.space]
        with torch.device("cpu"):
            return space.build(json.loads(self.arch), space.classes)
