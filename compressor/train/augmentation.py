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

    ``mixup`` blends the whole images (Zhang et al. 2018, arXiv 1710.09412, section 2), ``cutmix`` puts a box of the
    other one into the image (Yun et al. 2019, arXiv 1905.04899, section 3.1). Each is the alpha of the Beta
    distribution that shares are drawn from; 0 turns it off. With both, every sample has one or the other at random.
    The draws depend on seed and view alone, so that a teacher's outputs for a view can be stored and used again.
    """

    shift: float = 0.125
    hflip: bool = True
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other."""
        return max(self.mixup, self.cutmix) > 0

    def draw(self, seed: int, view: int, count: int, input: InputSpec) -> NDArray[np.float32]:
        """Draw the augmentation of ``count`` samples: count x 9.

        The columns: shift down and shift right in pixels, flipped (0 or 1), the share of the other sample in
        the mixture, that sample's index; top, left, height and width in pixels of its box, 0 where it is blended.
        """
        generator = np.random.default_rng([seed, view])
        drawn = np.zeros((count, 9), np.float32)
        for column, side in ((0, input.height), (1, input.width)):
            most = round(self.shift * side)
            drawn[:, column] = generator.integers(-most, most + 1, count)
        drawn[:, 2] = generator.integers(0, 2, count) if self.hflip else 0
        if self.mixup > 0:
            shares = generator.beta(self.mixup, self.mixup, count)
            drawn[:, 3] = np.minimum(shares, 1 - shares)  # the first of the two has the greater share
            drawn[:, 4] = generator.permutation(count)
        if self.cutmix > 0:
            boxed = generator.random(count) < (0.5 if self.mixup > 0 else 1.0)
            drawn[boxed, 3:] = self._boxes(generator, count, input)[boxed]
        return drawn

    def _boxes(self, generator: np.random.Generator, count: int, input: InputSpec) -> NDArray[np.float32]:
        """Draw the share, the other sample and the box of ``count`` samples: count x 6."""
        shares = generator.beta(self.cutmix, self.cutmix, count)
        scale = np.sqrt(np.minimum(shares, 1 - shares))
        heights, widths = (np.maximum(1, np.round(scale * side)).astype(int) for side in (input.height, input.width))
        tops, lefts = (
            generator.integers(0, input.height - heights + 1),
            generator.integers(0, input.width - widths + 1),
        )
        others, areas = generator.permutation(count), heights * widths / (input.height * input.width)
        return np.stack([areas, others, tops, lefts, heights, widths], 1).astype(np.float32)

    def shares(self, drawn: NDArray[np.float32], height: int, width: int) -> Tensor:
        """Return the other sample's share of each pixel as ``drawn`` (N x 9) says; N x 1 x 1 x 1 without boxes."""
        blended = torch.from_numpy(drawn[:, 3])[:, None, None, None]
        if not self.cutmix:
            return blended
        top, left, tall, wide = torch.from_numpy(drawn[:, 5:])[:, :, None, None].unbind(1)
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        return torch.where((tall > 0)[:, None], inside[:, None].float(), blended)

    def move(self, images: Tensor, drawn: NDArray[np.float32]) -> Tensor:
        """Shift and flip normalised images N x C x H x W as ``drawn`` (N x 9) says; the edges are filled with zeros."""
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
