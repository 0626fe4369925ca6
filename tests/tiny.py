"""Passes and samples for very small networks: a run's steps without a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor import catalog
from compressor.core import Artifact, Batch, Context, Pass, Result


@dataclasses.dataclass(frozen=True)
class Samples:
    """A `Split` in memory."""

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Samples:
        return Samples(f"{len(indices)} of {self.name}", self.images[indices], self.labels[indices], f"{indices}")

    def pixels(self, indices: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        chosen = np.arange(len(self)) if indices is None else indices
        return (self.images[chosen] * 40 + 128).clip(0, 255).astype(np.uint8)

    def batches(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        chosen = np.arange(len(self)) if indices is None else indices
        for i in range(0, len(chosen), size):
            part = chosen[i : i + size]
            yield Batch({"input": self.images[part]}, self.labels[part])


def make_pass(kind: str, **settings: Any) -> Pass:
    made: Pass = catalog.make(catalog.find("passes", kind), settings, f"pass {kind!r}")
    return made


def through(artifact: Artifact, context: Context, *passes: Pass) -> Result:
    """Run some passes, each in a folder of its own."""
    for number, each in enumerate(passes):
        work = context.workdir / f"{number}-{each.kind}"
        work.mkdir()
        result = each.run(artifact, replace(context, workdir=work))
        json.dumps(result.metrics, allow_nan=False)  # it goes into the report
        artifact = result.artifact
    return result


QUICK = {"blocks": 5, "inferences": 4, "seconds": 1.0}
