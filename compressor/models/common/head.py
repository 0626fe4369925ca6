"""IMDN-style heads: light blocks on a backbone's last feature map, for classification and dense prediction."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import nn

from compressor.core import Json, UsageError
from compressor.models.common.encoding import MOST_BLOCKS, MOST_CHANNELS, Kind, chosen, keys, snap, steps, whole
from compressor.models.common.family import initialise, require
from compressor.models.common.imdb import IMDB

__all__ = ["ImdnHead"]

_NAME = "head"

_WIDEST = 256
"""Channels in the search space, at most: four times the published block's."""
_DEEPEST = 6
"""Blocks in the search space, at most: as many as IMDN has."""
_QUARTER = 4
"""The published block keeps 16 of 64 channels at each split."""


@dataclass(frozen=True, slots=True)
class ImdnHead:
    """A 1x1 convolution to ``width`` channels, ``blocks`` of `IMDB`, and an end for ``task``.

    The end for ``classification`` is pooling and a linear layer; the end for ``dense`` prediction is a 1x1
    convolution to a score for each class, resized to the image's height and width. Each block keeps ``distil``
    channels back at each of its splits; ``attention`` is contrast-aware channel attention.
    """

    width: int = 32
    blocks: int = 1
    distil: int = 8
    attention: bool = True
    task: Literal["classification", "dense"] = "classification"

    def __post_init__(self) -> None:
        require(min(self.width, self.blocks, self.distil) > 0, _NAME, "a size is below one")
        require(
            self.distil < self.width,
            _NAME,
            f"distil = {self.distil} of {self.width} channels leaves none to pass on",
            hint="give a distil below the width",
        )

    @classmethod
    def decode(cls, encoding: Json) -> Self:
        """Return the classification head that ``{"width": 32, "blocks": 1}`` describes.

        ``distil`` defaults to a quarter of the width, ``attention`` to true.

        Raises UsageError naming the key that is missing, unknown or out of range.
        """
        keys(_NAME, encoding, ["width", "blocks"], ["distil", "attention"])
        width = whole(_NAME, "width", encoding["width"], MOST_CHANNELS)
        distil = whole(_NAME, "distil", encoding.get("distil", max(1, width // _QUARTER)), MOST_CHANNELS)
        attention = encoding.get("attention", True)
        if not isinstance(attention, bool):
            raise UsageError(f"{_NAME}: attention is no true or false", hint="write true or false")
        return cls(width, whole(_NAME, "blocks", encoding["blocks"], MOST_BLOCKS), distil, attention)

    def encode(self) -> dict[str, Json]:
        """Return the encoding that ``decode`` makes this head from. Raises UsageError for a dense head."""
        require(self.task == "classification", _NAME, f"no encoding describes {self}")
        own: Mapping[str, Json] = {} if self.distil == max(1, self.width // _QUARTER) else {"distil": self.distil}
        return {"width": self.width, "blocks": self.blocks, **own, **({} if self.attention else {"attention": False})}

    @classmethod
    def smallest(cls, multiple: int) -> Self:
        """Return the smallest head whose 3x3 convolutions have multiples of ``multiple`` channels."""
        return cls(2 * multiple, 1, multiple)

    def mutated(self, random: random.Random, multiple: int) -> Self:
        """Return a head one small step away; all but the attention's convolutions have multiples of ``multiple``."""
        width = max(2 * multiple, snap(self.width, multiple, _WIDEST))
        base = replace(self, width=width, distil=snap(self.distil, multiple, width - multiple))
        kinds: list[Kind] = [
            *([("width", step) for step in kind if step > base.distil] for kind in steps(width, multiple, _WIDEST)),
            *([("distil", step) for step in kind] for kind in steps(base.distil, multiple, width - multiple)),
            *([("blocks", step) for step in kind] for kind in steps(base.blocks, 1, _DEEPEST)),
            [("attention", not base.attention)],
        ]
        return replace(base, **chosen(random, kinds))

    def entry(self, channels: int) -> nn.Module:
        """Make the 1x1 convolution from the backbone's channels to the blocks', freshly initialised."""
        return initialise(nn.Sequential(nn.Conv2d(channels, self.width, 1, bias=False), nn.BatchNorm2d(self.width)))

    def body(self) -> nn.Sequential:
        """Make the blocks, freshly initialised: they map N x width x H x W to the same."""
        made = (_normalised(IMDB(self.width, self.distil, self.attention)) for _ in range(self.blocks))
        blocks = nn.Sequential(*made)
        initialise(blocks)
        return blocks


def _normalised(block: IMDB) -> IMDB:
    """Put a batch normalisation behind each convolution of ``block`` in place of its bias, as backbones have it.

    Students' learning rates are chosen for that. Exported, the normalisation is folded into the convolution.
    """
    for name in ("c1", "c2", "c3", "c4", "c5"):
        conv = getattr(block, name)
        twin = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, bias=False)
        setattr(block, name, nn.Sequential(twin, nn.BatchNorm2d(conv.out_channels)))
    return block
