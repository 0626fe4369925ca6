"""Inverted residuals as in MobileNetV3 (Howard et al. 2019, arXiv 1905.02244) and EfficientNet-Lite."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, Self

from torch import nn

from compressor.core import InputSpec, Json, UsageError
from compressor.models.common.encoding import MOST_BLOCKS, MOST_CHANNELS, Kind, chosen, items, keys, snap, steps, whole
from compressor.models.common.family import Shapes, initialise, require, small
from compressor.models.common.inverted import Group, InvertedResiduals

__all__ = ["MobileNetV3"]

_Group = tuple[int, int, int, int, int, int]

_NAME = "mobilenetv3"
_STEM = 16

# MobileNetV3-Large (the paper's table 1) with whole expansions: kernel, expansion, width, repeats, stride, attention.
_LARGE = (
    (3, 1, 16, 1, 1, 0), (3, 4, 24, 2, 2, 0), (5, 3, 40, 3, 2, 1), (3, 4, 80, 4, 2, 0), (3, 6, 112, 2, 1, 1),
    (5, 6, 160, 3, 2, 1),
)  # fmt: skip
_LARGE_LAST = 960

# The bounds of the search space.
_GROUPS = 10
_HALVINGS = 5
"""Groups of stride 2, at most: the published four, and one in place of the stem's stride at small inputs."""
_EXPANSION = 8
_WIDEST = 512
_DEEPEST = 6
_LAST = 2048

_MOST_EXPANSION = 64
"""The largest expansion of an encoding, which keeps a slip of the pen from filling memory."""


@dataclass(frozen=True, slots=True)
class MobileNetV3:
    """A 3x3 stem, groups of inverted residuals of kernel 3 or 5, a 1x1 convolution to ``last`` channels.

    A group may have squeeze-and-excite attention. The activation is one for the whole network: ReLU, which costs
    nothing in integers, or hard swish. Without attention and with ReLU these are EfficientNet-Lite's blocks.
    No checkpoint is recognised: public ones have expansions, or paddings, that an encoding does not have.
    """

    task: ClassVar[str] = "classification"
    normalization: ClassVar[str] = "imagenet"
    input_size: ClassVar[int] = 224
    follows_data: ClassVar[bool] = False

    blocks: tuple[_Group, ...] = _LARGE
    """Groups: kernel k, expansion t, channels c, n repeats, the first of stride s, attention 0 or 1."""
    last: int = _LARGE_LAST
    activation: Literal["relu", "hswish"] = "hswish"
    small: bool = False
    """For small inputs: the stem keeps the resolution."""
    outputs: int = 1000
    channels: int = 3

    def __post_init__(self) -> None:
        require(len(self.blocks) > 0, _NAME, "blocks is empty")
        sizes = [size for *group, _ in self.blocks for size in group]
        require(min(*sizes, self.last, self.outputs, self.channels) > 0, _NAME, "a size is below one")
        require(all(k in (3, 5) for k, *_ in self.blocks), _NAME, "a kernel is neither 3 nor 5")
        require(all(s in (1, 2) for *_, s, _ in self.blocks), _NAME, "a stride is neither 1 nor 2")
        require(all(a in (0, 1) for *_, a in self.blocks), _NAME, "an attention is neither 0 nor 1")
        require(self.activation in ("relu", "hswish"), _NAME, "the activation is neither relu nor hswish")

    @classmethod
    def rename(cls, key: str) -> str:
        return key

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        return None

    def build(self) -> nn.Module:
        groups = [Group(t, c, n, s, k, bool(a)) for k, t, c, n, s, a in self.blocks]
        activation = partial(nn.ReLU if self.activation == "relu" else nn.Hardswish, inplace=True)
        sizes = (self.channels, _STEM, self.last, self.outputs)
        return initialise(InvertedResiduals(sizes, groups, 1 if self.small else 2, activation))

    @classmethod
    def decode(cls, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Self:
        keys(_NAME, encoding, ["blocks", "last"], ["activation"])
        rows = items(_NAME, "blocks", encoding["blocks"], 1, MOST_BLOCKS)
        blocks = tuple(_group(items(_NAME, f"blocks[{i}]", row, 6, 6), f"blocks[{i}]") for i, row in enumerate(rows))
        last = whole(_NAME, "last", encoding["last"], MOST_CHANNELS)
        activation: Literal["relu", "hswish"]
        match encoding.get("activation", "relu"):
            case "relu" | "hswish" as activation:
                pass
            case other:
                raise UsageError(f"{_NAME}: activation = {other!r}", hint="write relu or hswish")
        return cls(blocks, last, activation, small(input), outputs, input.channels)

    def encode(self) -> dict[str, Json]:
        activation = {} if self.activation == "relu" else {"activation": self.activation}
        return {"blocks": [list(group) for group in self.blocks], "last": self.last, **activation}

    def mutated(self, random: random.Random, multiple: int) -> Self:
        blocks = _on_grid(self.blocks, multiple)
        base = replace(self, blocks=blocks, last=snap(self.last, multiple, _LAST))
        kinds: list[Kind] = [[("last", width) for width in kind] for kind in steps(base.last, multiple, _LAST)]
        kinds.append([("activation", "relu" if self.activation == "hswish" else "hswish")])
        for i, group in enumerate(blocks):
            before, after = blocks[:i], blocks[i + 1 :]
            for kind in _changes(group, multiple):
                changed = ((*before, *new, *after) for new in kind)
                kinds.append([("blocks", each) for each in changed if _in_space(each, multiple)])
        return replace(base, **chosen(random, kinds))

    @classmethod
    def seeds(cls, input: InputSpec, outputs: int, multiple: int) -> tuple[Self, ...]:
        """As `Family.seeds`: MobileNetV3-Large without and with its attention and hard swish, and shallow ones.

        At small inputs they halve the resolution three times.
        """
        first, second, *rest = _LARGE
        # Four halvings would leave 2x2 of 32x32 pixels.
        full = (first, (*second[:4], 1, second[5]) if small(input) else second, *rest)
        plain = tuple((*group[:5], 0) for group in full)
        shallow = tuple((k, t, c, 1, s, a) for k, t, c, _, s, a in plain)
        ladder: list[tuple[tuple[_Group, ...], float, float]] = [
            (((3, 1, 1, 1, 2, 0),), 0.0, 1),
            *((shallow, alpha, alpha * _LARGE_LAST) for alpha in (1 / 8, 1 / 4, 1 / 2, 1)),
            *((groups, alpha, alpha * _LARGE_LAST) for alpha in (0.35, 0.5, 0.75, 1, 1.5) for groups in (plain, full)),
        ]
        seeds = (
            cls(
                _on_grid(groups, multiple, alpha),
                snap(last, multiple, _LAST),
                "hswish" if groups is full else "relu",
                small(input),
                outputs,
                input.channels,
            )
            for groups, alpha, last in ladder
        )
        return tuple(dict.fromkeys(seeds))


def _in_space(blocks: tuple[_Group, ...], multiple: int) -> bool:
    """Tell whether the search space has these groups: not too many, nor too many of stride 2.

    The stem's channels need not be a multiple, so the first group expands them to one or not at all.
    """
    if not 1 <= len(blocks) <= _GROUPS or sum(s == 2 for *_, s, _ in blocks) > _HALVINGS:
        return False
    _, expansion, *_ = blocks[0]
    return expansion == 1 or expansion * _STEM % multiple == 0


def _changes(group: _Group, multiple: int) -> list[Sequence[tuple[_Group, ...]]]:
    """Return what may stand in place of a group, a list for each kind of change.

    Steps of expansion, width or repeats; the other kernel, stride or attention; a second group; for n = 1 nothing.
    """
    k, t, c, n, s, a = group
    resized: list[list[_Group]] = [
        *([(k, step, c, n, s, a) for step in kind] for kind in steps(t, 1, _EXPANSION)),
        *([(k, t, step, n, s, a) for step in kind] for kind in steps(c, multiple, _WIDEST)),
        *([(k, t, c, step, s, a) for step in kind] for kind in steps(n, 1, _DEEPEST)),
        [(8 - k, t, c, n, s, a)],
        [(k, t, c, n, 3 - s, a)],
        [(k, t, c, n, s, 1 - a)],
    ]
    rebuilt: list[tuple[_Group, ...]] = [(group, (k, t, c, 1, 1, a)), *([()] if n == 1 else [])]
    return [*([(new,) for new in kind] for kind in resized), *([new] for new in rebuilt)]


def _group(row: Sequence[Json], where: str) -> _Group:
    kernel, expansion, width, repeats, stride, attention = row
    if attention not in (0, 1) or isinstance(attention, float):
        raise UsageError(f"{_NAME}: {where}, attention, is {attention!r}", hint="write 0 or 1")
    return (
        whole(_NAME, f"{where}, kernel,", kernel, 5),
        whole(_NAME, f"{where}, expansion,", expansion, _MOST_EXPANSION),
        whole(_NAME, f"{where}, width,", width, MOST_CHANNELS),
        whole(_NAME, f"{where}, repeats,", repeats, MOST_BLOCKS),
        whole(_NAME, f"{where}, stride,", stride, 2),
        int(attention),
    )


def _on_grid(groups: tuple[_Group, ...], multiple: int, alpha: float = 1) -> tuple[_Group, ...]:
    return tuple((k, t, snap(alpha * width, multiple, _WIDEST), n, s, a) for k, t, width, n, s, a in groups)
