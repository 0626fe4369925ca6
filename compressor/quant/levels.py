"""How many levels each weight of a network gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import Json
from compressor.quant.allocation import allocate, redistribute
from compressor.quant.buckets import Buckets, flat, symmetric
from compressor.quant.codebook import Codebook

__all__ = ["WIDTHS", "Asked", "Form", "Levels", "fitting", "inner", "shared"]

WIDTHS = (2, 3, 4, 5, 6, 8)
"""Bits a weight that are tried under a budget."""
_BATCHES = 5
"""Of the gradients that points are shared out by (Polino et al. 2018, section 4.2)."""


@dataclass(frozen=True)
class Form:
    """How weights of few levels are held, and what computes with them."""

    integers: bool = True
    """Activations in 8 bits, on integer kernels; else in float, and so are the weights, once they are unfolded."""
    bucket: int | None = None
    """So many weights in a row have one scale (Polino et al. 2018: 256), which no integer kernel can run; None:
    an output channel has."""
    stochastic: bool = False
    """Weights are rounded to either neighbour at random while they are trained, to the nearest ever after."""

    @property
    def precision(self) -> str:
        """What the graph computes in."""
        return "int8" if self.integers else "fp32"


@dataclass(frozen=True)
class WeightQuantSpec:
    """What is asked of a network's weights."""

    bits: int = 8
    edge_bits: int = 8
    """Of the first layer's and the last one's."""
    learned: bool = False
    """Points that are learned (where there are fewer than eight bits), not a uniform grid."""
    limit: int | None = None
    """Bytes of the file: then the inner weights' bits are chosen by what they lose, not alike."""
    soft_budget: bool = False
    """Whether a limit that cannot be kept is forgotten."""
    redistributed: bool = False
    """Whether learned points are shared out among the weights by their gradients, ``2**bits`` each on average."""
    form: Form = Form()

    def told(self, kernels: int) -> dict[str, Json]:
        """For the report: how the artifact's weights are held; ``kernels`` are the bits of the integer kernels."""
        bucket = "output channel" if self.form.bucket is None else f"{self.form.bucket} weights"
        bits = min(self.bits, kernels) if self.form.integers else self.bits
        return {"weight_bits": bits, "scale_for_each": bucket, "computes_in": self.form.precision}


@dataclass(frozen=True)
class BitAllocation:
    """Of weights by name: the bits of their uniform grid, or how many learned points they have."""

    bits: Mapping[str, int] = field(default_factory=dict)
    points: Mapping[str, int] = field(default_factory=dict)
    form: Form = Form()


def inner(network: nn.Module, *, convolutions: bool) -> tuple[str, ...]:
    """The weights between the first layer and the last; ``convolutions``: those alone."""
    kinds = (nn.Conv2d, nn.Linear)
    names = [f"{name}.weight" for name, module in network.named_modules() if isinstance(module, kinds)]
    modules = dict(network.named_modules())
    return tuple(n for n in names[1:-1] if not convolutions or isinstance(modules[n.rpartition(".")[0]], nn.Conv2d))


def rounded(weight: Tensor, bits: int, *, learned: bool, bucket: int | None) -> Tensor:
    """A weight on a grid, or on the points that its percentiles are, with a scale for each bucket or channel."""
    if learned:
        stood_for: Tensor = Codebook(weight, 2**bits, bucket)(weight)
        return stood_for.detach()
    if bucket is not None:
        on_levels: Tensor = Buckets(bits, bucket)(weight)
        return on_levels.detach()
    integers, scale = symmetric(weight, bits)
    return flat(integers * scale, weight)


def fitting(
    network: nn.Module,
    names: Sequence[str],
    limit: int,
    images: Tensor,
    *,
    learned: bool,
    bucket: int | None = None,
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
        tried = (rounded(weight, bits, learned=learned, bucket=bucket) for bits in WIDTHS)
        losses.append([_divergence(network, name, each, images, wanted) for each in tried])
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
