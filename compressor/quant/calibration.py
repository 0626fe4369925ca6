"""The samples that ranges of activations are gathered over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from compressor.core import Model, Progress, Split, UsageError
from compressor.feeds import count_samples, one_run
from compressor.quant.synthetic import SyntheticSamples

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["Calibration", "draw_calibration"]

_MOST_SYNTHETIC = 64
"""Samples that are made where there are no data: each takes the gradients of a short training."""
_BATCH, _BATCH_VALUES = 10, 10 * 3 * 64 * 64
"""The most samples of a batch, and the most values: all tensors of a run are in memory."""
_KEPT = 1 << 28
"""Bytes of batches that stay in memory; of more each is read anew when it is wanted."""


@dataclass(frozen=True)
class Calibration:
    """What ranges are gathered over."""

    split: Split
    """The samples that they were drawn from."""
    batches: Sequence[Feeds]
    samples: int
    """How many they hold."""
    text: str
    """For the report."""
    warnings: tuple[str, ...]


def draw_calibration(
    train: Split | None, model: Model, samples: int, seed: int, what: str, progress: Progress
) -> Calibration:
    """Draw so many training samples for ``model``; without ``train`` make some (`SyntheticSamples`).

    Raises UsageError where there is not one whole batch of a network that takes a fixed number.
    """
    split = SyntheticSamples(model, min(samples, _MOST_SYNTHETIC), seed, progress) if train is None else train
    count = min(samples, len(split))
    drawn = np.sort(np.random.default_rng(seed).choice(len(split), count, replace=False))
    warnings: tuple[str, ...] = ()
    if train is None:
        warnings = ("calibrated on samples made from the network's own statistics: real ones are better",)
    elif count < samples:
        warnings = (f"calibrated on {count} samples: the training half has no more",)
    return Calibration(split, _batches(split, drawn, model), count, f"{count} {what} of {split.name}", warnings)


def _batches(split: Split, drawn: NDArray[np.int64], model: Model) -> Sequence[Feeds]:
    """The samples ``drawn`` in batches: ten small images or one large one.

    A network with a fixed batch gets whole batches of that; an incomplete one is left out. Of a network without a
    batch axis each is what one run takes.
    """
    fixed = model.signature.samples
    values = max(1, *(math.prod(shape[1:]) for shape in model.feed_shapes.values()))
    size = fixed or max(1, min(_BATCH, _BATCH_VALUES // values))
    if not getattr(split, "states", None) and 4 * values * len(drawn) > _KEPT:
        whole = len(drawn) // size * size if fixed else len(drawn)
        if not whole:
            raise _too_few(fixed, len(drawn))
        return _Read(split, [drawn[start : start + size] for start in range(0, whole, size)], model)
    signature = model.signature
    batches = (batch.feeds for batch in split.batches(size, drawn))
    whole_ones = [feeds for feeds in batches if fixed is None or count_samples(signature, feeds) == fixed]
    if not whole_ones:
        raise _too_few(fixed, len(drawn))
    return [one_run(signature, model.sizes, feeds) for feeds in whole_ones]


def _too_few(fixed: int | None, count: int) -> UsageError:
    return UsageError(
        f"the network takes {fixed} samples at a time, and there are {count} to calibrate on",
        hint=f"give {fixed} samples or more",
    )


@dataclass(frozen=True)
class _Read(Sequence["Feeds"]):
    """Batches that are read whenever they are wanted."""

    split: Split
    rows: list[NDArray[np.int64]]
    model: Model

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Feeds: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Feeds]: ...

    def __getitem__(self, index: int | slice) -> Feeds | Sequence[Feeds]:
        if isinstance(index, slice):
            return _Read(self.split, self.rows[index], self.model)
        batch = next(iter(self.split.batches(len(self.rows[index]), self.rows[index])))
        return one_run(self.model.signature, self.model.sizes, batch.feeds)

    def __iter__(self) -> Iterator[Feeds]:
        return (self[number] for number in range(len(self)))
