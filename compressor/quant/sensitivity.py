"""What a network's outputs lose by fewer bits of single weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.quant.bucket_quantizer import BucketQuantizer, from_rows, quantize_channels
from compressor.quant.codebook import Codebook
from compressor.quant.knapsack import share_points, solve_knapsack

__all__ = ["WIDTHS", "bits_within", "inner_weights", "points_by_gradient", "quantize_weight", "rounding_losses"]

WIDTHS = (2, 3, 4, 5, 6, 8)
"""Bits a weight that are tried under a byte limit."""
_BATCHES = 5
"""Batches whose gradients decide on the numbers of points."""


def inner_weights(network: nn.Module, *, convolutions: bool) -> tuple[str, ...]:
    """The names of the weights between the first layer and the last; with ``convolutions`` only theirs."""
    kinds = (nn.Conv2d, nn.Linear)
    names = [f"{name}.weight" for name, module in network.named_modules() if isinstance(module, kinds)]
    modules = dict(network.named_modules())
    return tuple(n for n in names[1:-1] if not convolutions or isinstance(modules[n.rpartition(".")[0]], nn.Conv2d))


def quantize_weight(weight: Tensor, bits: int, *, learned: bool, bucket_size: int | None) -> Tensor:
    """Round a weight, and return it in float: to its percentiles (``learned``), else uniformly.

    There is one scale for each bucket, or, where ``bucket_size`` is None, for each output channel.
    """
    if learned:
        to_points: Tensor = Codebook(weight, 2**bits, bucket_size)(weight)
        return to_points.detach()
    if bucket_size is not None:
        uniform: Tensor = BucketQuantizer(bits, bucket_size)(weight)
        return uniform.detach()
    integers, scale = quantize_channels(weight, bits)
    return from_rows(integers * scale, weight)


def rounding_losses(
    network: nn.Module, names: Sequence[str], images: Tensor, *, learned: bool, bucket_size: int | None = None
) -> dict[str, list[float]]:
    """What each weight loses with each number of bits in `WIDTHS`.

    That is how far the network's output for ``images`` moves with that weight alone rounded: the Kullback-Leibler
    divergence of scores (N x K), the mean squared error of any other output.
    """
    parameters = dict(network.named_parameters())
    with torch.inference_mode():
        expected = network(images).double()
        if expected.ndim == 2:
            expected = torch.log_softmax(expected, 1)
    losses = {}
    for name in names:
        weight = parameters[name].detach()
        rounded = (quantize_weight(weight, bits, learned=learned, bucket_size=bucket_size) for bits in WIDTHS)
        losses[name] = [_output_error(network, name, each, images, expected) for each in rounded]
    return losses


def bits_within(
    losses: Mapping[str, Sequence[float]], sizes: Mapping[str, int], byte_limit: int
) -> dict[str, int] | None:
    """Choose the bits of each weight that lose least while all together take ``byte_limit`` bytes.

    ``losses`` are those of `rounding_losses`, ``sizes`` the numbers of values. Returns None where not even two bits
    for each fit.
    """
    bytes_taken = [[-(-sizes[name] * bits // 8) for bits in WIDTHS] for name in losses]
    options = solve_knapsack(list(losses.values()), bytes_taken, byte_limit)
    return None if options is None else {name: WIDTHS[option] for name, option in zip(losses, options, strict=True)}


def _output_error(network: nn.Module, name: str, weight: Tensor, images: Tensor, expected: Tensor) -> float:
    with torch.inference_mode():
        output = torch.func.functional_call(network, {name: weight}, (images,)).double()
        if output.ndim != 2:
            return float(F.mse_loss(output, expected))
        return float(F.kl_div(torch.log_softmax(output, 1), expected, reduction="batchmean", log_target=True))


def points_by_gradient(
    network: nn.Module, names: Sequence[str], points: int, loss: Callable[[int], Tensor]
) -> dict[str, int]:
    """Give each weight a number of points, ``points`` on average, more where its gradient is larger.

    ``loss`` returns the training loss of a batch by its number (Polino et al. 2018, section 4.2).
    """
    parameters = dict(network.named_parameters())
    norms = [0.0] * len(names)
    for number in range(_BATCHES):
        gradients = torch.autograd.grad(loss(number), [parameters[name] for name in names])
        norms = [norm + float(gradient.norm()) for norm, gradient in zip(norms, gradients, strict=True)]
    return dict(zip(names, share_points(norms, points), strict=True))
