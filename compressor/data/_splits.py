"""Samples, and the halves they are cut in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from compressor.core import Batch, InputSpec, Normalization, UsageError
from compressor.data._images import Look
from compressor.preprocessing import normalize

HELD_OUT = 0.2


class Samples(Protocol):
    """Images in some store, known by their row."""

    @property
    def comparable(self) -> bool:
        """Whether ``keys`` cover the whole content: equal keys mean equal images."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """A digest of each image's content, the same on every machine."""
        ...

    def name(self, row: int) -> str:
        """The image's place within the source: never an absolute path."""
        ...

    def look(self, row: int) -> Look: ...

    def check(self, rows: NDArray[np.int64]) -> None:
        """Raise as ``load`` does for broken images, as far as they are found in a second or two."""
        ...

    def load(self, row: int, input: InputSpec) -> NDArray[np.uint8]:
        """The image, C x H x W, at the network's input size.

        Raises UsageError, or UnsafeInput, naming the file that cannot be decoded.
        """
        ...


@dataclass(frozen=True, eq=False)
class RawSplit:
    """Some samples of a source, as stored."""

    name: str
    samples: Samples
    rows: NDArray[np.int64]
    """Which of the samples, N."""
    labels: NDArray[np.int64]
    """Their labels, N."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def origin(self) -> Samples:
        """What they are taken from."""
        return self.samples

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every sample's name, label and content, in an order of its own."""
        keys = self.samples.keys
        lines = sorted(
            f"{self.samples.name(row)}\0{label}\0{keys[row]}\n"
            for row, label in zip(self.rows.tolist(), self.labels.tolist(), strict=True)
        )
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def take(self, positions: NDArray[np.int64], name: str) -> RawSplit:
        """The samples at ``positions`` of this split."""
        return RawSplit(name, self.samples, self.rows[positions], self.labels[positions])

    def pixels(self, indices: NDArray[np.int64] | None, input: InputSpec) -> NDArray[np.uint8]:
        """The samples at ``indices`` (all if None) as N x C x H x W at the network's input size.

        Raises as `Samples.load` does.
        """
        rows = self.rows if indices is None else self.rows[indices]
        out = np.empty((len(rows), *input.shape), np.uint8)
        for place, row in enumerate(rows.tolist()):
            out[place] = self.samples.load(row, input)
        return out

    def sample(self, count: int) -> NDArray[np.int64]:
        """The indices of at most ``count`` samples, of each class in proportion; always the same ones."""
        by_label = np.argsort(self.labels, kind="stable")
        return by_label[np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64)]

    def check(self) -> None:
        """Raise as ``pixels`` does for broken images, as far as they are found in a second or two."""
        self.samples.check(self.rows)

    def looks(self, count: int) -> list[Look]:
        """The headers of ``sample(count)``."""
        return [self.samples.look(row) for row in self.rows[self.sample(count)].tolist()]


@dataclass(frozen=True, eq=False)
class Found:
    """What a source holds, before anything is held out."""

    where: str
    """The source's name, for people."""
    classes: tuple[str, ...]
    main: RawSplit
    """The train half; all that there is where there are no halves."""
    test: RawSplit | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PreparedSplit:
    """A split as a network takes it. Satisfies `compressor.core.ImageSplit`."""

    raw: RawSplit
    input: InputSpec
    normalization: Normalization
    input_name: str
    """The network's input that is fed."""

    @property
    def name(self) -> str:
        return self.raw.name

    @property
    def fingerprint(self) -> str:
        return self.raw.fingerprint

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.raw.labels

    def __len__(self) -> int:
        return len(self.raw)

    def take(self, indices: NDArray[np.int64]) -> PreparedSplit:
        """The samples at ``indices``, with a name and a fingerprint of their own."""
        part = self.raw.take(indices, f"{len(indices):,} of {self.name}")
        return replace(self, raw=part)

    def pixels(self, indices: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """The samples before normalisation, N x C x H x W."""
        return self.raw.pixels(indices, self.input)

    def batches(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Yield (N x C x H x W normalised, N labels); only one batch is in memory at a time."""
        order = np.arange(len(self), dtype=np.int64) if indices is None else indices
        for start in range(0, len(order), size):
            part = order[start : start + size]
            yield Batch({self.input_name: normalize(self.pixels(part), self.normalization)}, self.labels[part])


def hold_out(split: RawSplit) -> tuple[RawSplit, RawSplit]:
    """Cut a split in (train, held out): a fifth of every class, at least one sample; a class of one is trained on.

    The seed is fixed, so that figures of different runs are judged on the same samples.
    Raises UsageError where every class has one sample only.
    """
    generator = np.random.default_rng(0)
    held = np.zeros(len(split), np.bool_)
    for label in np.unique(split.labels).tolist():
        places = generator.permutation(np.flatnonzero(split.labels == label))
        if len(places) > 1:
            held[places[: max(1, round(HELD_OUT * len(places)))]] = True
    if not held.any():
        raise UsageError(
            f"{split.name}: no class has two samples, one to train on and one to judge on",
            hint="add samples, or name others to judge on with --eval",
        )
    return (
        split.take(np.flatnonzero(~held), f"{split.name} without the held-out 20 %"),
        split.take(np.flatnonzero(held), f"{split.name} held-out 20 %"),
    )


class Origin(Protocol):
    """Samples in some store, as far as it is known which are the same."""

    @property
    def comparable(self) -> bool:
        """Whether equal keys mean equal samples."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """A digest of each sample's content."""
        ...


class Part(Protocol):
    """Some samples of a source, whatever they are."""

    @property
    def name(self) -> str: ...

    @property
    def origin(self) -> Origin: ...

    @property
    def rows(self) -> NDArray[np.int64]:
        """Which of the origin's samples, N."""
        ...

    def __len__(self) -> int: ...

    def take(self, positions: NDArray[np.int64], name: str) -> Self: ...


P = TypeVar("P", bound=Part)


def halves(part: P, what: str) -> tuple[P, P]:
    """Return (train, held out) of samples without classes: a fifth, at least one; always the same ones.

    ``what`` is the word for one. Raises UsageError where there is but one.
    """
    if len(part) < 2:
        raise UsageError(
            f"{part.name} has one {what} only, none would be left to train on",
            hint="add some, or name others to judge on with --eval",
        )
    order = np.random.default_rng(0).permutation(len(part))
    held = np.sort(order[: max(1, round(HELD_OUT * len(order)))])
    rest = np.setdiff1d(np.arange(len(order)), held)
    return part.take(rest, f"{part.name} without the held-out 20 %"), part.take(held, f"{part.name} held-out 20 %")


def disjoint(train: P, evaluate: P) -> tuple[P, str | None]:
    """``train`` without the samples that are in ``evaluate`` too, and a note if there were any.

    Raises UsageError if nothing is left.
    """
    ours, theirs = train.origin, evaluate.origin
    if not (ours.comparable and theirs.comparable):
        return train, None if ours is theirs else "more than 2 GiB: not searched for images that are in both halves"
    judged = {theirs.keys[row] for row in evaluate.rows.tolist()}
    fresh = np.array([ours.keys[row] not in judged for row in train.rows.tolist()], np.bool_)
    dropped = len(train) - int(fresh.sum())
    if not dropped:
        return train, None
    if dropped == len(train):
        raise UsageError(
            f"every sample of {train.name} is in {evaluate.name} too: nothing is left to train on",
            hint="name other samples with --data or --eval",
        )
    note = f"{dropped:,} samples of {train.name} are in {evaluate.name} too (the same content): not trained on"
    return train.take(np.flatnonzero(fresh), train.name), note
