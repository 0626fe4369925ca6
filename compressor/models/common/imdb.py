"""The information multi-distillation block (Hui et al. 2019, arXiv 1909.11856), which IMDN and heads are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["IMDB", "SLOPE", "ContrastAttention"]

SLOPE = 0.05
"""The slope below zero of every LeakyReLU in IMDN."""

_REDUCTION = 16
"""The attention's bottleneck has one channel for so many, as published."""
_TINY = 1e-12
"""Added under the square root, whose gradient is infinite at 0 (a constant channel). Below float32's resolution."""


class ContrastAttention(nn.Module):
    """Contrast-aware channel attention (the paper's section 3.2): a factor for each channel from its statistics.

    The statistics are the mean plus the population's standard deviation over the whole map. They are taken in
    float32 and in two passes, because squares overflow float16. A tile of an image has other statistics than the
    whole image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // _REDUCTION)
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(inplace=True), nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map N x C x H x W to the same."""
        exact = x.float()
        mean = exact.mean((2, 3), keepdim=True)
        away = exact - mean
        contrast = torch.sqrt((away * away).mean((2, 3), keepdim=True) + _TINY)
        scale: Tensor = self.conv_du((contrast + mean).to(x.dtype))
        return x * scale


class IMDB(nn.Module):
    """Four 3x3 convolutions, each of which keeps ``distil`` channels back and passes on the others; then a fusion.

    ``c1`` to ``c3`` make ``width`` channels each, ``c4`` makes ``distil``. The 4 x ``distil`` channels that were kept
    go through contrast-aware attention (with ``attention``) and the 1x1 convolution ``c5``, and are added to the
    input. The children have the names of the public checkpoints.
    """

    def __init__(self, width: int, distil: int, attention: bool = True) -> None:
        super().__init__()
        passed = width - distil
        self.distil = distil
        self.c1 = nn.Conv2d(width, width, 3, padding=1)
        self.c2 = nn.Conv2d(passed, width, 3, padding=1)
        self.c3 = nn.Conv2d(passed, width, 3, padding=1)
        self.c4 = nn.Conv2d(passed, distil, 3, padding=1)
        self.c5 = nn.Conv2d(4 * distil, width, 1)
        self.cca: nn.Module = ContrastAttention(4 * distil) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map N x ``width`` x H x W to the same."""
        kept, passed = [], x
        for conv in (self.c1, self.c2, self.c3):
            made = F.leaky_relu(conv(passed), SLOPE)
            kept.append(made[:, : self.distil])
            passed = made[:, self.distil :]
        kept.append(self.c4(passed))
        fused: Tensor = self.c5(self.cca(torch.cat(kept, 1)))
        return fused + x
