"""Cross-layer equalisation: channels of one layer scaled to similar ranges, and the next layer's weights back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.models.common.imdb import IMDB, SLOPE

__all__ = ["equalize_channels"]

_LEAST_RANGE = 1e-6


def equalize_channels(network: nn.Module, batches: Iterable[Tensor], share: float = 0.5) -> int:
    """Scale the channels within IMDN's blocks so that their largest magnitudes over ``batches`` come closer.

    Nagel et al. 2019, arXiv 1906.04721, section 4.1: a positive factor passes through LeakyReLU, so what a
    convolution's channel is divided by, the weights of its readers are multiplied by. Here the readers are the next
    convolution, the attention's first one and the fusing 1x1. ``share`` is the part of a channel's distance from the
    mean (in logarithms) that is removed; removing all of it would cost the readers' weights more. Changes
    ``network`` in place, but not what it computes. Returns the number of blocks.
    """
    blocks = [module for module in network.modules() if isinstance(module, IMDB)]
    largest: dict[nn.Module, Tensor] = {}

    def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
        magnitude = output.abs().amax((0, 2, 3))
        largest[module] = torch.maximum(largest.get(module, magnitude), magnitude)

    def watch_activated(module: nn.Module, inputs: object, output: Tensor) -> None:
        watch(module, inputs, F.leaky_relu(output, SLOPE))

    hooks = []
    for block in blocks:
        hooks += [conv.register_forward_hook(watch_activated) for conv in (block.c1, block.c2, block.c3)]
        hooks.append(block.c4.register_forward_hook(watch))
    with torch.no_grad():
        for batch in batches if blocks else ():
            network(batch)
        for hook in hooks:
            hook.remove()
        for block in blocks:
            _equalize(block, largest, share)
    return len(blocks)


def _equalize(block: IMDB, largest: dict[nn.Module, Tensor], share: float) -> None:
    convs = (block.c1, block.c2, block.c3, block.c4)
    readers = [block.c5]
    if (squeeze := getattr(block.cca, "conv_du", None)) is not None:
        readers.append(squeeze[0])
    for number, conv in enumerate(convs):
        logs = largest[conv].clamp_min(_LEAST_RANGE).log()
        factor = (share * (logs - logs.mean())).exp()
        conv.weight.div_(factor[:, None, None, None])
        assert conv.bias is not None
        conv.bias.div_(factor)
        kept, passed = factor[: block.distil], factor[block.distil :]
        channels = slice(number * block.distil, (number + 1) * block.distil)
        for reader in readers:
            reader.weight[:, channels] *= kept[None, :, None, None]
        if conv is not block.c4:
            convs[number + 1].weight.mul_(passed[None, :, None, None])
