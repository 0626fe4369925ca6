"""The one batch that candidates are shown."""

from __future__ import annotations

import numpy as np
import torch

from compressor.core import InputSpec, ImageSplit
from compressor.scores.common.probe import Batch

__all__ = ["of_noise", "of_split"]


def of_split(split: ImageSplit, samples: int, seed: int) -> Batch:
    """``samples`` images of a split, as many of each class as can be, drawn by the seed."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(split))
    labels = split.labels[shuffled]
    # Round-robin over classes: the k-th image of every class comes before any class's next one.
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = labels == label
        turn[members] = np.arange(members.sum())
    drawn = shuffled[np.argsort(turn, kind="stable")[:samples]]
    ((feeds, _),) = split.batches(len(drawn), drawn)
    (images,) = feeds.values()
    return Batch(torch.from_numpy(images), torch.from_numpy(split.labels[drawn]))


def of_noise(input: InputSpec, classes: int, samples: int, seed: int) -> Batch:
    """Gaussian noise with random labels, for want of data."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, *input.shape, generator=generator)
    return Batch(images, torch.randint(classes, (samples,), generator=generator))
