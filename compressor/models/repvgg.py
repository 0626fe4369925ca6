"""RepVGG (Ding et al. 2021, arXiv 2101.03697), under the names of the published checkpoints."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from compressor.core import InputSpec, Json
from compressor.models.common.encoding import MOST_BLOCKS, MOST_CHANNELS, chosen, items, keys, snapped, varied, wholes
from compressor.models.common.family import Shapes, classes, count, initialise, kernel, require, small

__all__ = ["RepVGG"]

_NAME = "repvgg"
_DEEPEST = 16
"""Blocks a stage in the search space, at most: the longest published stage, rounded up."""
_WIDEST = 2560
"""Channels in the search space, at most: those of the widest published network."""


@dataclass(frozen=True, slots=True)
class RepVGG:
    """Plain 3x3 convolutions, each trained with a 1x1 and an identity beside it that `deployed` folds into it.

    A first block, then three or four stages that halve the resolution at their first block. A1, for example, is
    ``depths=(2, 4, 14, 1)`` with ``widths=(64, 64, 128, 256, 1280)``.
    """

    task: ClassVar[str] = "classification"
    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 224
    follows_data: ClassVar[bool] = True

    depths: tuple[int, ...]
    """Blocks in each stage."""
    widths: tuple[int, ...]
    """Channels of the first block, then of each stage."""
    small: bool = False
    """For small inputs: the first block keeps the resolution."""
    outputs: int = 1000
    channels: int = 3

    def __post_init__(self) -> None:
        require(len(self.depths) in (3, 4), _NAME, f"depths = {self.depths}: there are three stages or four")
        require(len(self.widths) == len(self.depths) + 1, _NAME, "widths are the first block's and one a stage")
        require(min(*self.depths, *self.widths, self.outputs, self.channels) > 0, _NAME, "a size is below one")

    @classmethod
    def rename(cls, key: str) -> str:
        return key

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        """As `Family.recognise`. Shapes do not show strides: three stages are taken to be for small inputs."""
        first, outputs = kernel(shapes, "stage0.rbr_dense.conv"), classes(shapes, "linear")
        stages = range(1, 1 + count(shapes, "stage{}.0.rbr_dense.conv.weight", start=1))
        kernels = [kernel(shapes, f"stage{i}.0.rbr_dense.conv") for i in stages]
        widths = tuple(each[0] for each in kernels if each)
        if first is None or outputs is None or len(widths) != len(stages) or len(stages) not in (3, 4):
            return None
        depths = tuple(count(shapes, f"stage{i}.{{}}.rbr_dense.conv.weight") for i in stages)
        return cls(depths, (first[0], *widths), len(depths) == 3, outputs, first[1])

    def build(self) -> nn.Module:
        return initialise(_Network(self))

    @classmethod
    def decode(cls, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Self:
        keys(_NAME, encoding, ["depths", "widths"])
        stages = len(items(_NAME, "depths", encoding["depths"], 3, 4))
        depths = wholes(_NAME, "depths", encoding["depths"], stages, MOST_BLOCKS)
        widths = wholes(_NAME, "widths", encoding["widths"], stages + 1, MOST_CHANNELS)
        return cls(depths, widths, small(input), outputs, input.channels)

    def encode(self) -> dict[str, Json]:
        return {"depths": list(self.depths), "widths": list(self.widths)}

    def mutated(self, random: random.Random, multiple: int) -> Self:
        base = replace(self, widths=snapped(self.widths, multiple, _WIDEST))
        depths = varied("depths", base.depths, 1, _DEEPEST)
        return replace(base, **chosen(random, [*depths, *varied("widths", base.widths, multiple, _WIDEST)]))

    @classmethod
    def seeds(cls, input: InputSpec, outputs: int, multiple: int) -> tuple[Self, ...]:
        stages = 3 if small(input) else 4
        members = [
            cls(
                tuple(max(1, int(depth * full)) for full in (2, 4, 14, 1)[:stages]),
                snapped((width * full for full in (64, 64, 128, 256, 512)[: stages + 1]), multiple, _WIDEST),
                small(input),
                outputs,
                input.channels,
            )
            for width in (0, 1 / 8, 1 / 4, 1 / 2, 1, 2)
            for depth in (0, 1 / 2, 1)
        ]
        return tuple(dict.fromkeys(members))


class _Branch(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.bn(self.conv(x))
        return made


class _Block(nn.Module):
    """The paper's figure 2 (b): branches of 3x3, 1x1 and, where the shape stays, identity; then a rectifier."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.rbr_dense = _Branch(inputs, outputs, 3, stride)
        self.rbr_1x1 = _Branch(inputs, outputs, 1, stride)
        self.rbr_identity = nn.BatchNorm2d(outputs) if stride == 1 and inputs == outputs else None
        self.nonlinearity = nn.ReLU()
        self.shape = (inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        total = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            total = total + self.rbr_identity(x)
        made: Tensor = self.nonlinearity(total)
        return made

    def deployed(self) -> nn.Module:
        """Return one convolution and a rectifier that compute the same in eval mode (the paper's section 3.3)."""
        inputs, outputs, stride = self.shape
        fused = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        branches = [(self.rbr_dense.conv.weight, self.rbr_dense.bn)]
        branches.append((F.pad(self.rbr_1x1.conv.weight, (1, 1, 1, 1)), self.rbr_1x1.bn))
        if self.rbr_identity is not None:
            one = torch.eye(outputs, device=self.rbr_identity.weight.device)[:, :, None, None]
            branches.append((F.pad(one, (1, 1, 1, 1)), self.rbr_identity))
        folded = [_folded(weight, norm) for weight, norm in branches]
        fused.load_state_dict({"weight": sum(w for w, _ in folded), "bias": sum(b for _, b in folded)})
        return nn.Sequential(fused, nn.ReLU())


def _folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a convolution without bias and the batch normalisation behind it, in eval mode."""
    return fuse_conv_bn_weights(weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)  # type: ignore[arg-type]


class _Network(nn.Module):
    def __init__(self, arch: RepVGG) -> None:
        super().__init__()
        self.stage0 = _Block(arch.channels, arch.widths[0], 1 if arch.small else 2)
        self.stages = tuple(f"stage{i}" for i in range(1, len(arch.depths) + 1))
        inputs = arch.widths[0]
        for name, width, depth in zip(self.stages, arch.widths[1:], arch.depths, strict=True):
            rest = (_Block(width, width, 1) for _ in range(depth - 1))
            self.add_module(name, nn.Sequential(_Block(inputs, width, 2), *rest))
            inputs = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, arch.outputs)

    def features(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to the last feature map."""
        x = self.stage0(x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        logits: Tensor = self.linear(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the network as a chain: first block, blocks, head."""
        blocks = (block for name in self.stages for block in self.get_submodule(name).children())
        return (self.stage0, *blocks, nn.Sequential(self.avgpool, nn.Flatten(), self.linear))
