"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), under torchvision's names."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

from torch import nn

from compressor.core import InputSpec, Json, UsageError
from compressor.models.common.encoding import MOST_BLOCKS, MOST_CHANNELS, Kind, chosen, items, keys, snap, steps, whole
from compressor.models.common.family import Shapes, classes, count, initialise, kernel, require, small
from compressor.models.common.inverted import Group, InvertedResiduals

__all__ = ["MobileNetV2"]

_Group = tuple[int, int, int, int]

_NAME = "mobilenetv2"
_STEM = 32

# The paper's table 2: expansion, width, repeats and the stride of the first.
_PUBLISHED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_PUBLISHED_LAST = 1280

# The bounds of the search space.
_GROUPS = 10
"""Groups, at most: three more than the paper's networks have."""
_HALVINGS = 5
"""Groups of stride 2, at most: the paper's four, and one in place of the stem's stride at small inputs."""
_EXPANSION = 10
"""The largest expansion: the paper finds little difference from 5 to 10 (section 4)."""
_WIDEST = 512
"""Channels of a group, at most: the paper's widest network, 1.4x, has 448."""
_DEEPEST = 6
"""Blocks a group, at most: two more than the paper's longest group."""
_LAST = 4096
"""Channels of the last convolution, at most: about twice those of the paper's widest network, 1792."""

_MOST_EXPANSION = 64
"""The largest expansion of an encoding, which keeps a slip of the pen from filling memory."""


@dataclass(frozen=True, slots=True)
class MobileNetV2:
    """A 3x3 stem, groups of inverted residuals, a 1x1 convolution to ``last`` channels.

    Encodings have a stem of 32 channels and any groups: expansion, width, repeats and stride.
    """

    task: ClassVar[str] = "classification"
    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 224
    follows_data: ClassVar[bool] = False

    blocks: tuple[_Group, ...] = _PUBLISHED
    """Groups of inverted residuals: expansion t, channels c, n repeats, the first of stride s."""
    last: int = _PUBLISHED_LAST
    stem: int = _STEM
    """Channels of the stem."""
    small: bool = False
    """For small inputs: the stem keeps the resolution."""
    outputs: int = 1000
    channels: int = 3

    def __post_init__(self) -> None:
        require(len(self.blocks) > 0, _NAME, "blocks is empty")
        sizes = (*itertools.chain(*self.blocks), self.last, self.stem, self.outputs, self.channels)
        require(min(sizes) > 0, _NAME, "a size is below one")
        require(all(s in (1, 2) for *_, s in self.blocks), _NAME, "a stride is neither 1 nor 2")

    @classmethod
    def rename(cls, key: str) -> str:
        return key

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        """As `Family.recognise`. The widths are free, but shapes do not show strides: the repeats must be published."""
        stem, outputs = kernel(shapes, "features.0.0"), classes(shapes, "classifier.1")
        bodies = count(shapes, "features.{}.conv.0.0.weight", start=1)
        last = kernel(shapes, f"features.{bodies + 1}.0")
        if stem is None or outputs is None or last is None or not bodies:
            return None
        if bodies != sum(n for _, _, n, _ in _PUBLISHED):
            raise UsageError(
                f"this looks like mobilenetv2, but it has {bodies} blocks: their strides cannot be seen in the weights",
                hint="name the code that builds it: --arch package.module:callable",
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
        sizes = (self.channels, self.stem, self.last, self.outputs)
        groups = [Group(*group) for group in self.blocks]
        return initialise(InvertedResiduals(sizes, groups, 1 if self.small else 2, partial(nn.ReLU6, inplace=True)))

    @classmethod
    def decode(cls, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Self:
        keys(_NAME, encoding, ["blocks", "last"])
        rows = items(_NAME, "blocks", encoding["blocks"], 1, MOST_BLOCKS)
        blocks = tuple(_group(items(_NAME, f"blocks[{i}]", row, 4, 4), f"blocks[{i}]") for i, row in enumerate(rows))
        last = whole(_NAME, "last", encoding["last"], MOST_CHANNELS)
        return cls(blocks, last, _STEM, small(input), outputs, input.channels)

    def encode(self) -> dict[str, Json]:
        require(self.stem == _STEM, _NAME, f"no encoding describes {self}")
        return {"blocks": [list(group) for group in self.blocks], "last": self.last}

    def mutated(self, random: random.Random, multiple: int) -> Self:
        blocks = _on_grid(self.blocks, multiple)
        base = replace(self, blocks=blocks, last=snap(self.last, multiple, _LAST))
        kinds: list[Kind] = [[("last", width) for width in kind] for kind in steps(base.last, multiple, _LAST)]
        for i, group in enumerate(blocks):
            before, after = blocks[:i], blocks[i + 1 :]
            kinds += [[("blocks", (*before, new, *after)) for new in kind] for kind in _resized(group, multiple)]
            kinds += [[("blocks", b)] for new in _rebuilt(group) if _in_space(b := (*before, *new, *after))]
        return replace(base, **chosen(random, kinds))

    @classmethod
    def seeds(cls, input: InputSpec, outputs: int, multiple: int) -> tuple[Self, ...]:
        """As `Family.seeds`: the published networks, and shallow ones with one block a group.

        At small inputs they halve the resolution three times.
        """
        first, second, *rest = _PUBLISHED
        # Four halvings would leave 2x2 of 32x32 pixels.
        full = (first, (*second[:3], 1) if small(input) else second, *rest)
        shallow = tuple((t, c, 1, s) for t, c, _, s in full)
        ladder = [
            (((1, 1, 1, 2),), 0.0, 1),
            *((shallow, alpha, alpha * _PUBLISHED_LAST) for alpha in (1 / 8, 1 / 4, 1 / 2, 1)),
            # The multiplier leaves the last convolution alone where it is below one (the paper's section 4).
            *((full, alpha, max(alpha, 1) * _PUBLISHED_LAST) for alpha in (0.35, 0.5, 0.75, 1, 1.4)),
        ]
        seeds = (
            cls(
                _on_grid(groups, multiple, alpha),
                snap(last, multiple, _LAST),
                _STEM,
                small(input),
                outputs,
                input.channels,
            )
            for groups, alpha, last in ladder
        )
        return tuple(dict.fromkeys(seeds))


def _in_space(blocks: tuple[_Group, ...]) -> bool:
    """Tell whether the search space has members with so many groups, and so many of stride 2."""
    return 1 <= len(blocks) <= _GROUPS and sum(s == 2 for *_, s in blocks) <= _HALVINGS


def _resized(group: _Group, multiple: int) -> list[list[_Group]]:
    """Return the groups that are one step of expansion, width or repeats away, a list for each kind of step."""
    t, c, n, s = group
    return [
        *([(step, c, n, s) for step in kind] for kind in steps(t, 1, _EXPANSION)),
        *([(t, step, n, s) for step in kind] for kind in steps(c, multiple, _WIDEST)),
        *([(t, c, step, s) for step in kind] for kind in steps(n, 1, _DEEPEST)),
    ]


def _rebuilt(group: _Group) -> list[tuple[_Group, ...]]:
    """Return what may stand in place of a group: the other stride; a second group of one block; nothing, for n = 1."""
    t, c, n, s = group
    return [((t, c, n, 3 - s),), (group, (t, c, 1, 1)), *([()] if n == 1 else [])]


def _group(row: Sequence[Json], where: str) -> _Group:
    expansion, width, repeats, stride = row
    return (
        whole(_NAME, f"{where}, expansion,", expansion, _MOST_EXPANSION),
        whole(_NAME, f"{where}, width,", width, MOST_CHANNELS),
        whole(_NAME, f"{where}, repeats,", repeats, MOST_BLOCKS),
        whole(_NAME, f"{where}, stride,", stride, 2),
    )


def _on_grid(groups: tuple[_Group, ...], multiple: int, alpha: float = 1) -> tuple[_Group, ...]:
    return tuple((t, snap(alpha * width, multiple, _WIDEST), n, s) for t, width, n, s in groups)
