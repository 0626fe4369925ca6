"""Training images with augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compressor.core import ImageSplit, InputSpec, Normalization
from compressor.preprocessing import normalize
from compressor.train.augmentation import Augmentation

__all__ = ["Samples"]

_CACHED_BYTES = 1 << 30
"""Decoded images are cached up to this size; a larger set is decoded again each time."""


@dataclass(frozen=True)
class Samples:
    """The training half of a data source with an augmentation."""

    split: ImageSplit
    input: InputSpec
    normalization: Normalization
    classes: int
    augmentation: Augmentation
    seed: int

    def __len__(self) -> int:
        return len(self.split)

    def drawn(self, view: int) -> NDArray[np.float32]:
        """The augmentation of every sample in a view, N x 9: see `Augmentation.draw`."""
        return self.augmentation.draw(self.seed, view, len(self), self.input)

    def batch(self, rows: NDArray[np.int64], drawn: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Normalised, augmented images N x C x H x W and their labels; ``drawn`` is that of all samples.

        Labels are N class numbers, or N x K class probabilities where images are mixed.
        """
        images = self._moved(rows, drawn)
        labels = torch.from_numpy(self.split.labels[rows])
        if not self.augmentation.mixes:
            return images, labels
        others = drawn[rows, 4].astype(np.int64)
        share = torch.from_numpy(drawn[rows, 3])
        of_each_pixel = self.augmentation.shares(drawn[rows], *images.shape[2:])
        images = torch.lerp(images, self._moved(others, drawn), of_each_pixel)
        both = (torch.from_numpy(self.split.labels[of]) for of in (rows, others))
        mine, other = (F.one_hot(labels, self.classes).float() for labels in both)
        return images, torch.lerp(mine, other, share[:, None])

    def plain(self, rows: NDArray[np.int64]) -> Tensor:
        """Normalised images N x C x H x W without augmentation."""
        return torch.from_numpy(normalize(self._pixels(rows), self.normalization))

    def _moved(self, rows: NDArray[np.int64], drawn: NDArray[np.float32]) -> Tensor:
        return self.augmentation.move(self.plain(rows), drawn[rows])

    def _pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.split.pixels(rows) if self._decoded is None else self._decoded[rows]

    @cached_property
    def _decoded(self) -> NDArray[np.uint8] | None:
        size = len(self) * int(np.prod(self.input.shape))
        return self.split.pixels(None) if size <= _CACHED_BYTES else None
