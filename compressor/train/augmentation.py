"""Random shifts, horizontal flips and mixtures of images, reproducible from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compressor.core import InputSpec

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Shift images by up to ``shift`` of a side, flip half of them, and mix each with another one.

    ``mixup`` is the alpha of the Beta distribution that shares are drawn from (Zhang et al. 2018, arXiv
    1710.09412, section 2); 0 turns mixing off. The draws depend on seed and view alone, so that a
    teacher's outputs for a view can be stored and used again.
    """

    shift: float = 0.125
    hflip: bool = True
    mixup: float = 0.0

    def draw(self, seed: int, view: int, count: int, input: InputSpec) -> NDArray[np.float32]:
        """Draw the augmentation of ``count`` samples: count x 5.

        The columns: shift down and shift right in pixels, flipped (0 or 1), the share of the other sample in
        the mixture, and that sample's index.
        """
        generator = np.random.default_rng([seed, view])
        drawn = np.zeros((count, 5), np.float32)
        for column, side in ((0, input.height), (1, input.width)):
            most = round(self.shift * side)
            drawn[:, column] = generator.integers(-most, most + 1, count)
        drawn[:, 2] = generator.integers(0, 2, count) if self.hflip else 0
        if self.mixup > 0:
            shares = generator.beta(self.mixup, self.mixup, count)
            drawn[:, 3] = np.minimum(shares, 1 - shares)  # the first of the two has the greater share
            drawn[:, 4] = generator.permutation(count)
        return drawn

    def move(self, images: Tensor, drawn: NDArray[np.float32]) -> Tensor:
        """Shift and flip normalised images N x C x H x W as ``drawn`` (N x 5) says; the edges are filled with zeros."""
        height, width = images.shape[2:]
        most = (round(self.shift * height), round(self.shift * width))
        padded = F.pad(images, (most[1], most[1], most[0], most[0]))
        plan = torch.from_numpy(drawn[:, :3]).long().to(images.device)
        columns = torch.arange(width, device=images.device).expand(len(images), -1)
        columns = torch.where(plan[:, 2:3] == 1, width - 1 - columns, columns) + plan[:, 1:2] + most[1]
        rows = torch.arange(height, device=images.device) + plan[:, 0:1] + most[0]
        samples = torch.arange(len(images), device=images.device)
        # Advanced indices on both sides of the slice put the channels last, the layout that CPUs train fastest in.
        moved = padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)
