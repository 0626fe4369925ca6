"""Weights as learned points, as differentiable quantization trains them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.quant.bucket_quantizer import from_rows, to_rows

__all__ = ["Codebook"]


class Codebook(nn.Module):
    """A parametrisation: each weight takes the nearest of a tensor's learned points (Polino et al. 2018, section 4).

    Weights are scaled to [0, 1] in their bucket, or, with ``bucket_size`` None, to [-1, 1] in their output channel,
    which kernels with a scale for each channel can run. The weights stay as they are. The points start at the
    percentiles of the scaled weights; the gradient of a point is the sum of scale x gradient over the weights that
    take it (section 4.1). Each forward pass assigns weights to points anew.
    """

    def __init__(self, weight: Tensor, points: int, bucket_size: int | None = 256) -> None:
        super().__init__()
        self.bucket_size = bucket_size
        rows = to_rows(weight.detach(), bucket_size)
        if bucket_size is None:
            low = torch.zeros_like(rows[:, :1])
            scale = rows.abs().amax(1, keepdim=True)
        else:
            low = rows.amin(1, keepdim=True)
            scale = rows.amax(1, keepdim=True) - low
        scale = scale.clamp_min(torch.finfo(rows.dtype).tiny)
        self.register_buffer("low", low)
        self.register_buffer("scale", scale)
        scaled = from_rows((rows - low) / scale, weight).reshape(-1).double()
        middle = (torch.arange(points, dtype=torch.float64, device=weight.device) + 0.5) / points
        self.points = nn.Parameter(scaled.sort().values[(middle * len(scaled)).long()].to(weight.dtype))
        self.low: Tensor
        self.scale: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """Return the points in place of the weights."""
        points = self.points.sort().values
        return from_rows(points[self._nearest(weight, points)] * self.scale + self.low, weight)

    def assign(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the index of each weight's point (buckets x weights), and the points in ascending order."""
        points = self.points.detach().sort().values
        return self._nearest(weight, points), points

    def _nearest(self, weight: Tensor, points: Tensor) -> Tensor:
        with torch.no_grad():
            scaled = (to_rows(weight, self.bucket_size) - self.low) / self.scale
            return torch.bucketize(scaled, (points[1:] + points[:-1]) / 2)
