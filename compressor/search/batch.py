"""The batch that all candidates are scored on: images of the training half, or noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from compressor.core import InputSpec, Split
from compressor.models.common.family import SMALL
from compressor.scores.common.probe import Batch

__all__ = ["ScoringBatch", "of_noise", "of_split", "samples_of"]

_NOISE = "noise"
_MOST, _LEAST = 64, 8
"""Images of the batch: DisWOT takes 64 to 128 of 32 x 32."""


def samples_of(input: InputSpec) -> int:
    """Return how many images candidates are scored on: 64 of up to 64 x 64 pixels, fewer of larger ones, 8 at least."""
    return max(_LEAST, min(_MOST, _MOST * SMALL**2 // (input.height * input.width)))


@dataclass(frozen=True, eq=False)
class ScoringBatch:
    """A batch and where it is from."""

    batch: Batch
    name: str
    """For reports."""
    fingerprint: str
    """The split's fingerprint, ``noise`` without data."""
    labelled: bool
    """Whether the labels are the samples' own."""

    @classmethod
    def draw(cls, split: Split | None, input: InputSpec, classes: int, samples: int, seed: int) -> Self:
        """Draw ``samples`` images of a split, or noise with random labels without one."""
        if split is None:
            return cls(of_noise(input, classes, samples, seed), f"{_NOISE}, without data", _NOISE, True)
        name = f"{samples} images of {split.name}"
        return cls(of_split(split, samples, seed), name, split.fingerprint, hasattr(split, "labels"))

    @property
    def is_noise(self) -> bool:
        """Whether there is no data."""
        return self.fingerprint == _NOISE


def of_split(split: Split, samples: int, seed: int) -> Batch:
    """Draw ``samples`` images of a split at random, about as many of each class. Without labels all are 0."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(split))
    all_labels = getattr(split, "labels", np.zeros(len(split), np.int64))
    labels = all_labels[shuffled]
    # Round-robin over classes: the k-th image of every class comes before any class's next one.
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = labels == label
        turn[members] = np.arange(members.sum())
    drawn = shuffled[np.argsort(turn, kind="stable")[:samples]]
    ((feeds, _),) = split.batches(len(drawn), drawn)
    (images,) = feeds.values()
    return Batch(torch.from_numpy(images), torch.from_numpy(all_labels[drawn]))


def of_noise(input: InputSpec, classes: int, samples: int, seed: int) -> Batch:
    """Draw Gaussian noise as images, with random labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, *input.shape, generator=generator)
    return Batch(images, torch.randint(classes, (samples,), generator=generator))
