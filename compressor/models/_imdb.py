"""The information multi-distillation block (Hui et al. 2019, arXiv 1909.11856), alone: of IMDN, and of heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["IMDB", "SLOPE", "ContrastAttention"]

SLOPE = 0.05
"""Of every LeakyReLU in IMDN, below zero."""

_REDUCTION = 16
"""Channels to one in the bottleneck of the attention, as published."""
_TINY = 1e-12
"""Under the root: its gradient is infinite where a channel is constant. Far less than float32 tells."""


class ContrastAttention(nn.Module):
    """CCA: each channel times what its own mean and standard deviation say.

    The deviation is the population's, taken in two passes and in float32: squares overflow float16.
    It is global: parts of an image have other statistics than the whole.
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
    """Four 3x3 convolutions, each of which keeps ``distil`` channels back and passes on the rest; then fuse all.

    ``c1`` to ``c3`` make ``width`` channels each, ``c4`` the last ``distil``; what was kept, 4 x ``distil``
    channels, goes through contrast-aware attention (where ``attention`` says so) and a 1x1 convolution, and is
    added to the input. Children bear the names of the public checkpoints.
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
