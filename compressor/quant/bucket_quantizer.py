"""Uniform quantisation of weights, with a scale for each bucket or each output channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BucketQuantizer", "from_rows", "quantize_channels", "to_rows"]


class BucketQuantizer(nn.Module):
    """A parametrisation: each weight takes one of 2^bits levels between the extremes of its bucket.

    Polino et al. 2018, section 2. Rounding is to the nearest level, or, in training, stochastic: to either
    neighbour, with the weight itself as its expectation. Gradients go straight through to the float weights
    (algorithm 1). With ``bucket_size`` None each output channel is a bucket.
    """

    def __init__(self, bits: int, bucket_size: int | None = 256, *, stochastic: bool = False) -> None:
        super().__init__()
        self.bits, self.bucket_size, self.stochastic = bits, bucket_size, stochastic

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weights, of the same shape."""
        with torch.no_grad():
            scaled, scale, low = self._scaled(weight)
            top = 2**self.bits - 1
            levels = scaled * top
            if self.stochastic and self.training:
                levels = torch.floor(levels + torch.rand_like(levels))
            integers = levels.round().clamp(0, top)
            rounded = from_rows(integers / top * scale + low, weight)
        return weight + (rounded - weight).detach()

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return integers (buckets x weights), and each bucket's scale and least weight (buckets x 1)."""
        scaled, scale, low = self._scaled(weight)
        return (scaled * (2**self.bits - 1)).round(), scale, low

    def _scaled(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights from 0 to 1 within their bucket (buckets x weights), the buckets' scales and least weights."""
        rows = to_rows(weight, self.bucket_size)
        low = rows.amin(1, keepdim=True)
        scale = (rows.amax(1, keepdim=True) - low).clamp_min(torch.finfo(rows.dtype).tiny)
        return (rows - low) / scale, scale, low


def to_rows(weight: Tensor, bucket_size: int | None) -> Tensor:
    """Reshape a weight to buckets x weights; a last bucket that is not full repeats its last weight."""
    if bucket_size is None:
        return weight.reshape(len(weight), -1)
    row = weight.reshape(1, -1)
    size = min(bucket_size, row.shape[1])
    return F.pad(row, (0, -row.shape[1] % size), mode="replicate").reshape(-1, size)


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Reshape buckets x weights to the shape of ``like``, without what filled up the last bucket."""
    return rows.reshape(-1)[: like.numel()].reshape(like.shape)


def quantize_channels(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round symmetrically: integers (channels x weights) and each output channel's scale (channels x 1).

    The largest magnitude of a channel becomes 2^(bits-1) - 1, as integer kernels take it.
    """
    rows = to_rows(weight, None)
    limit = 2 ** (bits - 1) - 1
    scale = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny) / limit
    return (rows / scale).round(), scale
