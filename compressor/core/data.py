"""Samples, as passes read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.core.signature import Feeds

__all__ = ["Batch", "Data", "DataSource", "ImageSplit", "Split"]


class Batch(NamedTuple):
    """Some samples: what the network is fed, and what it should answer."""

    feeds: Feeds
    """By input name, one row a sample."""
    targets: NDArray[np.generic] | None
    """Labels (N), images (N x C x H x W); None of samples without."""


class Split(Protocol):
    """Samples of one half of a data source, already prepared for the network's inputs."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[np.int64]) -> Split:
        """Some of the samples, with a name and a fingerprint of their own."""
        ...

    def batches(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Yield the samples (all if None) in order, ``size`` at a time; the last batch may be smaller."""
        ...


class ImageSplit(Split, Protocol):
    """Images of classes."""

    @property
    def labels(self) -> NDArray[np.int64]: ...

    def pixels(self, indices: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """The samples (all if None) before normalisation, N x C x H x W."""
        ...


class Data(Protocol):
    """A data source, split. ``train`` and ``evaluate`` never share a sample."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where samples have none."""
        ...

    @property
    def targets(self) -> str | None:
        """What its samples have as targets: ``labels``, ``images`` or None."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the report."""
        ...

    @property
    def train(self) -> Split | None: ...

    @property
    def evaluate(self) -> Split: ...


class DataSource(Protocol):
    """A data source as it was found, before it is prepared for a network."""

    @property
    def targets(self) -> str | None:
        """``labels``, ``images`` or None, as in `Data`."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where samples have none."""
        ...
