"""Weights on uniform grids, one a bucket, as quantized distillation trains them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Buckets", "bucketed", "flat", "symmetric"]


class Buckets(nn.Module):
    """A parametrisation: weights on 2^bits levels between the ends of their bucket (Polino et al. 2018, section 2).

    Rounding is to the nearest level, or stochastic (to either neighbour, its expectation the weight itself)
    while training. Gradients go straight through to the float weights (algorithm 1). ``bucket`` None is one
    bucket for each output channel.
    """

    def __init__(self, bits: int, bucket: int | None = 256, *, stochastic: bool = False) -> None:
        super().__init__()
        self.bits, self.bucket, self.stochastic = bits, bucket, stochastic

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weights, of the same shape."""
        with torch.no_grad():
            scaled, scale, low = self.scaled(weight)
            top = 2**self.bits - 1
            levels = scaled * top
            if self.stochastic and self.training:
                levels = torch.floor(levels + torch.rand_like(levels))
            codes = levels.round().clamp(0, top)
            rounded = flat(codes / top * scale + low, weight)
        return weight + (rounded - weight).detach()

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels (buckets x weights, integers), and each bucket's scale and lowest weight (buckets x 1)."""
        scaled, scale, low = self.scaled(weight)
        return (scaled * (2**self.bits - 1)).round(), scale, low

    def scaled(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights between 0 and 1 in their bucket (buckets x weights), the bucket's scale and its lowest weight."""
        rows = bucketed(weight, self.bucket)
        low = rows.amin(1, keepdim=True)
        scale = (rows.amax(1, keepdim=True) - low).clamp_min(torch.finfo(rows.dtype).tiny)
        return (rows - low) / scale, scale, low


def bucketed(weight: Tensor, bucket: int | None) -> Tensor:
    """Weights as buckets x weights; a last bucket that is not full repeats its last weight."""
    if bucket is None:
        return weight.reshape(len(weight), -1)
    row = weight.reshape(1, -1)
    size = min(bucket, row.shape[1])
    return F.pad(row, (0, -row.shape[1] % size), mode="replicate").reshape(-1, size)


def symmetric(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers (channels x weights) on a grid around zero, and each output channel's scale (channels x 1).

    The largest magnitude of a channel is mapped onto 2^(bits-1) - 1: what integer kernels run.
    """
    rows = bucketed(weight, None)
    limit = 2 ** (bits - 1) - 1
    scale = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny) / limit
    return (rows / scale).round(), scale


def flat(rows: Tensor, like: Tensor) -> Tensor:
    """Buckets x weights in the shape of ``like`` again."""
    return rows.reshape(-1)[: like.numel()].reshape(like.shape)
