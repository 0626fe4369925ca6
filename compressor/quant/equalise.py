"""Channels of one layer brought to alike ranges, by what the next one takes back: the same network, easier to round."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.models.common.imdb import IMDB, SLOPE

__all__ = ["equalise"]

_LEAST = 1e-6


def equalise(network: nn.Module, batches: Iterable[Tensor], share: float = 0.5) -> int:
    """Scale the channels within IMDN's blocks so that their largest magnitudes over ``batches`` come closer.

    Cross-layer equalisation (Nagel et al. 2019, arXiv 1906.04721, section 4.1): LeakyReLU lets a positive factor
    through, so that what a convolution's channel is divided by, its readers' weights are multiplied by. Here those
    are the next convolution, or the attention's first and the fusing 1x1, whose input it scales. ``share`` of a
    channel's distance from the mean (in logarithms) is taken away; the rest would cost the readers' weights more.
    Changes ``network`` in place, but not what it computes; returns how many blocks it has.
    """
    blocks = [module for module in network.modules() if isinstance(module, IMDB)]
    largest: dict[nn.Module, Tensor] = {}

    def watch(module: nn.Module, given: object, made: Tensor) -> None:
        seen = made.abs().amax((0, 2, 3))
        largest[module] = torch.maximum(largest.get(module, seen), seen)

    def watch_active(module: nn.Module, given: object, made: Tensor) -> None:
        watch(module, given, F.leaky_relu(made, SLOPE))

    hooks = []
    for block in blocks:
        hooks += [conv.register_forward_hook(watch_active) for conv in (block.c1, block.c2, block.c3)]
        hooks.append(block.c4.register_forward_hook(watch))
    with torch.no_grad():
        for batch in batches if blocks else ():
            network(batch)
        for hook in hooks:
            hook.remove()
        for block in blocks:
            _equalise(block, largest, share)
    return len(blocks)


def _equalise(block: IMDB, largest: dict[nn.Module, Tensor], share: float) -> None:
    convs = (block.c1, block.c2, block.c3, block.c4)
    readers = [block.c5]
    if (squeeze := getattr(block.cca, "conv_du", None)) is not None:
        readers.append(squeeze[0])
    for number, conv in enumerate(convs):
        logs = largest[conv].clamp_min(_LEAST).log()
        factor = (share * (logs - logs.mean())).exp()
        conv.weight.div_(factor[:, None, None, None])
        assert conv.bias is not None
        conv.bias.div_(factor)
        kept, passed = factor[: block.distil], factor[block.distil :]
        place = slice(number * block.distil, (number + 1) * block.distil)
        for reader in readers:
            reader.weight[:, place] *= kept[None, :, None, None]
        if conv is not block.c4:
            convs[number + 1].weight.mul_(passed[None, :, None, None])
