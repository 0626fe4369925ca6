"""Weights as learned points, as differentiable quantization trains them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.quant.buckets import bucketed, flat

__all__ = ["Codebook"]


class Codebook(nn.Module):
    """A parametrisation: each weight is the nearest of a tensor's learned points (Polino et al. 2018, section 4).

    Weights are scaled to [0, 1] in their bucket (or to [-1, 1] in their output channel, where ``bucket`` is
    None: what kernels with a scale for each channel can run). They stay as they are; points start at the
    percentiles of the scaled weights and get as gradient the sum, over the weights that they stand for, of
    scale x the weight's gradient (section 4.1). Which point is a weight's is asked anew in every forward pass.
    """

    def __init__(self, weight: Tensor, points: int, bucket: int | None = 256) -> None:
        super().__init__()
        self.bucket = bucket
        rows = bucketed(weight.detach(), bucket)
        if bucket is None:
            low = torch.zeros_like(rows[:, :1])
            scale = rows.abs().amax(1, keepdim=True)
        else:
            low = rows.amin(1, keepdim=True)
            scale = rows.amax(1, keepdim=True) - low
        scale = scale.clamp_min(torch.finfo(rows.dtype).tiny)
        self.register_buffer("low", low)
        self.register_buffer("scale", scale)
        scaled = flat((rows - low) / scale, weight).reshape(-1).double()
        middle = (torch.arange(points, dtype=torch.float64, device=weight.device) + 0.5) / points
        self.points = nn.Parameter(scaled.sort().values[(middle * len(scaled)).long()].to(weight.dtype))
        self.low: Tensor
        self.scale: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """The points that stand for the weights, in their place."""
        points = self.points.sort().values
        return flat(points[self._nearest(weight, points)] * self.scale + self.low, weight)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Which point is each weight's (buckets x weights), and the points in ascending order."""
        points = self.points.detach().sort().values
        return self._nearest(weight, points), points

    def _nearest(self, weight: Tensor, points: Tensor) -> Tensor:
        with torch.no_grad():
            scaled = (bucketed(weight, self.bucket) - self.low) / self.scale
            return torch.bucketize(scaled, (points[1:] + points[:-1]) / 2)
