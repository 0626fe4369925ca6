"""How many levels each weight of a network gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.quant.allocation import allocate, redistribute
from compressor.quant.buckets import bucketed, flat
from compressor.quant.codebook import Codebook

__all__ = ["WIDTHS", "Asked", "Levels", "fitting", "inner", "shared"]

WIDTHS = (2, 3, 4, 5, 6, 8)
"""Bits a weight that are tried under a budget."""
_BATCHES = 5
"""Of the gradients that points are shared out by (Polino et al. 2018, section 4.2)."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a network's weights."""

    bits: int = 8
    edge_bits: int = 8
    """Of the first layer's and the last one's."""
    learned: bool = False
    """Points that are learned (where there are fewer than eight bits), not a uniform grid."""
    limit: int | None = None
    """Bytes of the file: then the inner weights' bits are chosen by what they lose, not alike."""
    yielding: bool = False
    """Whether a limit that cannot be kept is forgotten."""


@dataclass(frozen=True)
class Levels:
    """Of weights by name: the bits of their uniform grid, or how many learned points they have."""

    bits: Mapping[str, int] = field(default_factory=dict)
    points: Mapping[str, int] = field(default_factory=dict)


def inner(network: nn.Module, *, learned: bool) -> tuple[str, ...]:
    """The weights between the first layer and the last; for learned points those whose scale is a channel's."""
    kinds = (nn.Conv2d, nn.Linear)
    names = [f"{name}.weight" for name, module in network.named_modules() if isinstance(module, kinds)]
    modules = dict(network.named_modules())
    return tuple(n for n in names[1:-1] if not learned or isinstance(modules[n.rpartition(".")[0]], nn.Conv2d))


def rounded(weight: Tensor, bits: int, *, learned: bool) -> Tensor:
    """A weight on a grid, or on the points that its percentiles are, with a scale for each output channel."""
    if learned:
        stood_for: Tensor = Codebook(weight, 2**bits, None)(weight)
        return stood_for.detach()
    rows = bucketed(weight, None)
    limit = 2 ** (bits - 1) - 1
    scale = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny) / limit
    return flat((rows / scale).round() * scale, weight)


def fitting(
    network: nn.Module, names: Sequence[str], limit: int, images: Tensor, *, learned: bool
) -> dict[str, int] | None:
    """Of each weight the bits, of `WIDTHS`, that lose least while all codes together take ``limit`` bytes.

    What a weight loses is the divergence of the network's answers to ``images`` with it alone rounded (of images
    that it makes, the squared error).
    None where not even two bits each fit.
    """
    parameters = dict(network.named_parameters())
    with torch.inference_mode():
        wanted = network(images).double()
        if wanted.ndim == 2:
            wanted = torch.log_softmax(wanted, 1)
    losses, sizes = [], []
    for name in names:
        weight = parameters[name].detach()
        losses.append([_divergence(network, name, rounded(weight, b, learned=learned), images, wanted) for b in WIDTHS])
        sizes.append([-(-weight.numel() * bits // 8) for bits in WIDTHS])
    chosen = allocate(losses, sizes, limit)
    return None if chosen is None else {name: WIDTHS[option] for name, option in zip(names, chosen, strict=True)}


def _divergence(network: nn.Module, name: str, weight: Tensor, images: Tensor, wanted: Tensor) -> float:
    with torch.inference_mode():
        got = torch.func.functional_call(network, {name: weight}, (images,)).double()
        if got.ndim == 4:
            return float(F.mse_loss(got, wanted))
        got = torch.log_softmax(got, 1)
        return float(F.kl_div(got, wanted, reduction="batchmean", log_target=True))


def shared(network: nn.Module, names: Sequence[str], points: int, loss: Callable[[int], Tensor]) -> dict[str, int]:
    """``points`` a weight on average, more where the gradient of ``loss`` (of a batch by its number) is larger."""
    parameters = dict(network.named_parameters())
    sums = [0.0] * len(names)
    for number in range(_BATCHES):
        gradients = torch.autograd.grad(loss(number), [parameters[name] for name in names])
        sums = [s + float(g.norm()) for s, g in zip(sums, gradients, strict=True)]
    return dict(zip(names, redistribute(sums, points), strict=True))
