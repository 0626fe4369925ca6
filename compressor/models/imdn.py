"""IMDN (Hui et al. 2019, arXiv 1909.11856) and its variants, from the paper's network to small students."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from compressor.core import InputSpec, Json, UsageError
from compressor.models.common.encoding import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    Kind,
    chosen,
    keys,
    one_of,
    snap,
    steps,
    varied,
    whole,
)
from compressor.models.common.family import Shapes, count, kernel, require
from compressor.models.common.imdb import IMDB, SLOPE

__all__ = ["IMDN"]

_NAME = "imdn"
Variant = Literal["imdn", "rtc", "as"]

_WIDEST, _DEEPEST = 128, 16
"""Channels and blocks in the search space, at most: twice the paper's width, more than twice its depth."""
_LARGEST_SCALE = 32
"""The largest scale of an encoding: the last convolution has 3 x scale^2 channels."""
_STRIDE = 4
"""The stride of the stem of the variant ``as``."""
_SPEED = re.compile(r"1\.sub\.(\d+)\.(c\d.*)")
"""A block's key as the challenge network spells it, ``model.1.sub.0.c1.weight``, without the prefix ``model.``."""


@dataclass(frozen=True, slots=True)
class IMDN:
    """A 3x3 stem, a chain of information multi-distillation blocks, a long skip, a 3x3 to sub-pixels, the shuffle.

    ``variant`` says how the blocks' outputs are used. ``imdn``, the paper's network, joins all of them with a 1x1
    convolution, and then a 3x3. ``rtc``, the winner of the AI in RTC challenge, has a 1x1 behind the last block.
    ``as``, the paper's network for any scale, is ``imdn`` with a stem of stride 4: at scale 4 input and output have
    one size (for sides that divide by 4). Input and output are RGB in [0, 1]. The published networks are
    ``IMDN(scale=s)`` and ``IMDN(12, 5, 3, False, 2, "rtc")``, which has 20,190 parameters.
    """

    task: ClassVar[str] = "super-resolution"
    normalization: ClassVar[str] = "unit"
    input_size: ClassVar[int] = 120
    """Any size will do: this one is a quarter of 240 x 240 pixels."""
    follows_data: ClassVar[bool] = False

    width: int = 64
    blocks: int = 6
    distil: int = 16
    """Channels that each of a block's four 3x3 convolutions keeps back."""
    attention: bool = True
    """Contrast-aware channel attention in every block."""
    scale: int = 4
    """The factor of the sub-pixel convolution at the end."""
    variant: Variant = "imdn"
    channels: int = 3

    def __post_init__(self) -> None:
        least = min(self.width, self.blocks, self.distil, self.scale, self.channels)
        require(least > 0, _NAME, "a size is below one")
        require(
            self.distil < self.width,
            _NAME,
            f"distil = {self.distil} keeps back all of width = {self.width}",
            hint="keep back fewer channels than there are: a quarter is the paper's",
        )
        require(self.variant in get_args(Variant), _NAME, f"variant = {self.variant!r} is not known")

    @property
    def outputs(self) -> int:
        """The channels of its output image, which are those of its input."""
        return self.channels

    @property
    def upscale_factor(self) -> int:
        """The height of the output by the height of the input, and the same for their widths."""
        return self.scale // _STRIDE if self.variant == "as" else self.scale

    @classmethod
    def rename(cls, key: str) -> str:
        if speed := _SPEED.fullmatch(key):
            return f"IMDB{int(speed[1]) + 1}.{speed[2]}"
        for old, new in (("0.", "fea_conv."), ("2.", "upsampler.0.")):
            if key.startswith(old):
                return new + key.removeprefix(old)
        return re.sub(r"^1\.sub\.\d+\.", "LR_conv.", key)

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        any_scale = kernel(shapes, "fea_conv.0") is not None
        stem = kernel(shapes, "fea_conv.0" if any_scale else "fea_conv")
        last, kept = kernel(shapes, "upsampler.0"), kernel(shapes, "IMDB1.c4")
        if stem is None or last is None or kept is None or kernel(shapes, "IMDB1.c1") is None:
            return None
        scale = math.isqrt(last[0] // stem[1])
        if scale**2 * stem[1] != last[0]:
            return None
        variant: Variant = "rtc" if "c.0.weight" not in shapes else "as" if any_scale else "imdn"
        blocks = count(shapes, "IMDB{}.c1.weight", start=1)
        return cls(
            stem[0], blocks, kept[0], "IMDB1.cca.conv_du.0.weight" in shapes, scale, variant, channels=stem[1]
        )  # fmt: skip

    def build(self) -> nn.Module:
        return _initialise(_Network(self))

    @classmethod
    def decode(cls, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Self:
        keys(_NAME, encoding, ["width", "blocks", "distil", "attention", "scale"], ["variant"])
        if type(attention := encoding["attention"]) is not bool:
            raise UsageError(f"{_NAME}: attention has {attention!r}", hint="attention is true or false")
        width = whole(_NAME, "width", encoding["width"], MOST_CHANNELS)
        variant = one_of(_NAME, "variant", encoding.get("variant", "imdn"), get_args(Variant))
        return cls(
            width,
            whole(_NAME, "blocks", encoding["blocks"], MOST_BLOCKS),
            whole(_NAME, "distil", encoding["distil"], MOST_CHANNELS),
            attention,
            whole(_NAME, "scale", encoding["scale"], _LARGEST_SCALE),
            variant,  # type: ignore[arg-type] # one_of has looked
            channels=input.channels,
        )

    def encode(self) -> dict[str, Json]:
        sizes = {"width": self.width, "blocks": self.blocks, "distil": self.distil}
        variant = {} if self.variant == "imdn" else {"variant": self.variant}
        return {**sizes, "attention": self.attention, "scale": self.scale, **variant}

    def mutated(self, random: random.Random, multiple: int) -> Self:
        """As `Family.mutated`. ``width`` and 4 x ``distil`` are multiples, and ``distil`` is half the width at most.

        The scale stays the same.
        """
        base = self._on_grid(self.width, self.distil, multiple)
        quarter = _quarter(multiple)
        widths = [[("width", w) for w in kind if 2 * base.distil <= w] for kind in steps(base.width, multiple, _WIDEST)]
        kept = [[("distil", k) for k in kind] for kind in steps(base.distil, quarter, base.width // 2)]
        blocks = [[("blocks", n[0]) for _, n in kind] for kind in varied("blocks", (base.blocks,), 1, _DEEPEST)]
        others: list[Kind] = [[("attention", not base.attention)]]
        if self.variant != "as":
            others.append([("variant", "rtc" if base.variant == "imdn" else "imdn")])
        return replace(base, **chosen(random, [*widths, *kept, *blocks, *others]))

    @classmethod
    def seeds(cls, input: InputSpec, outputs: int, multiple: int, upscale_factor: int = 4) -> tuple[Self, ...]:
        """As `Family.seeds`, for an ``upscale_factor``."""
        ladder: list[tuple[int, int, bool, Variant]] = [
            (2, 1, False, "rtc"), (8, 2, False, "rtc"), (12, 5, False, "rtc"), (16, 5, False, "imdn"),
            (24, 5, False, "imdn"), (32, 5, True, "imdn"), (48, 6, True, "imdn"), (64, 6, True, "imdn"),
        ]  # fmt: skip
        seeds = (
            cls(width, blocks, max(1, width // 4), attention, upscale_factor, variant, input.channels)._on_grid(
                width, max(1, width // 4), multiple
            )
            for width, blocks, attention, variant in ladder
        )
        return tuple(dict.fromkeys(seeds))

    def _on_grid(self, width: int, distil: int, multiple: int) -> Self:
        width = max(snap(width, multiple, _WIDEST), 2 * _quarter(multiple))
        return replace(self, width=width, distil=snap(distil, _quarter(multiple), width // 2))


def _quarter(multiple: int) -> int:
    """Return the grid of ``distil``: a block joins four times so many channels."""
    return max(1, multiple // 4)


def _initialise(network: _Network) -> _Network:
    """Initialise the network as a linear interpolation of its input, so that training need not learn that first.

    The first channels of the stem pass the image on, the last convolution spreads them over the sub-pixels, and
    what lies between keeps torch's initialisation, scaled to near zero. A stem that reduces the resolution, or has
    fewer channels than the image, keeps torch's initialisation.
    """
    stem, last = network.fea_conv, network.upsampler[0]
    if not isinstance(stem, nn.Conv2d) or stem.weight.is_meta or stem.out_channels < stem.in_channels:
        return network
    assert isinstance(last, nn.Conv2d)
    channels, scale = stem.in_channels, network.scale
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d) and name.endswith(("c5", "LR_conv")):
                module.weight.mul_(0.1)
                if module.bias is not None:
                    module.bias.zero_()
        image = torch.arange(channels)
        stem.weight[image] = 0
        stem.weight[image, image, 1, 1] = 1
        last.weight.mul_(0.1)
        last.weight[:, image] = 0
        for bias in (stem.bias, last.bias):
            assert bias is not None
            bias.zero_()
        # Sub-pixel i of r lies (i + 0.5) / r - 0.5 from the pixel's centre; its weights are the hat at -1, 0 and 1.
        centres = (torch.arange(scale) + 0.5) / scale - 0.5
        hats = (1 - (torch.tensor([-1.0, 0.0, 1.0])[None] - centres[:, None]).abs()).clamp_min(0)
        spread = torch.einsum("iy,jx->ijyx", hats, hats).flatten(0, 1)
        for channel in range(channels):
            last.weight[channel * scale**2 : (channel + 1) * scale**2, channel] = spread
    return network


class _Network(nn.Module):
    """The network; its children have the names of the public checkpoints: ``IMDB1``, ``c.0``, ``LR_conv``, …"""

    def __init__(self, arch: IMDN) -> None:
        super().__init__()
        self.scale = arch.scale
        self.divisor = _STRIDE if arch.variant == "as" else 1
        """Height and width of an input are multiples of this."""
        self.fea_conv: nn.Module = nn.Conv2d(arch.channels, arch.width, 3, padding=1)
        if arch.variant == "as":
            self.fea_conv = nn.Sequential(
                nn.Conv2d(arch.channels, arch.width, 3, 2, 1), nn.LeakyReLU(SLOPE),
                nn.Conv2d(arch.width, arch.width, 3, 2, 1),
            )  # fmt: skip
        self.stages = tuple(f"IMDB{i}" for i in range(1, arch.blocks + 1))
        for name in self.stages:
            self.add_module(name, IMDB(arch.width, arch.distil, arch.attention))
        self.enlarger = "upsampler"
        """The name of the submodule whose input is the last feature map."""
        self.joins = arch.variant != "rtc"
        if self.joins:
            self.c = nn.Sequential(nn.Conv2d(arch.width * arch.blocks, arch.width, 1), nn.LeakyReLU(SLOPE))
        size = 3 if self.joins else 1
        self.LR_conv = nn.Conv2d(arch.width, arch.width, size, padding=size // 2)
        subpixels = nn.Conv2d(arch.width, arch.channels * arch.scale**2, 3, padding=1)
        self.upsampler = nn.Sequential(subpixels, nn.PixelShuffle(arch.scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W in [0, 1] to N x channels x rH x rW; values may leave [0, 1] a little."""
        shallow = x = self.fea_conv(x)
        made = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            made.append(x)
        return self._finished(made, shallow)

    def _finished(self, made: list[Tensor], shallow: Tensor) -> Tensor:
        x = self.c(torch.cat(made, 1)) if self.joins else made[-1]
        enlarged: Tensor = self.upsampler(self.LR_conv(x) + shallow)
        return enlarged

    def parts(self) -> tuple[nn.Module, ...]:
        """Return a chain of the same cost: stem, blocks, and an end that takes one block's output in place of all."""
        return (self.fea_conv, *(self.get_submodule(name) for name in self.stages), _End(self))


class _End(nn.Module):
    """The layers behind the blocks, fed with copies of one map: the same cost, but another image."""

    def __init__(self, network: _Network) -> None:
        super().__init__()
        self.blocks = len(network.stages)
        self.joined: nn.Module = network.c if network.joins else nn.Identity()
        self.LR_conv, self.upsampler = network.LR_conv, network.upsampler
        self.joins = network.joins

    def forward(self, x: Tensor) -> Tensor:
        made = self.joined(torch.cat([x] * self.blocks, 1)) if self.joins else x
        enlarged: Tensor = self.upsampler(self.LR_conv(made) + x)
        return enlarged
