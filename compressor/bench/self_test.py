"""A device against itself: how much two measurements of one and the same file differ there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import numpy as np

from compressor.bench.machine import fingerprint
from compressor.bench.device import Place
from compressor.bench.cache import ResultCache
from compressor.bench.statistics import detectable, differences, ratio
from compressor.bench.timing import TimingConfig
from compressor.core import Json, Progress

__all__ = ["SelfTest", "self_test"]

ROUNDS = TimingConfig(blocks=15, inferences=20, seed=1)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """An A/A run: its truth is a ratio of 1."""

    spread: float
    """s_d, the standard deviation over blocks of the log ratio."""
    ratio: float
    interval: tuple[float, float]
    """Of the ratio, 90 %: it should hold 1."""
    blocks: int
    when: str | None = None
    """When it was taken; None: now."""

    def detectable(self, blocks: int) -> float:
        """The smallest change that so many blocks can tell from none here, as a share."""
        return detectable(self.spread, blocks)


def self_test(
    facts: Mapping[str, Json],
    state: Mapping[str, Json],
    threads: int,
    twins: Callable[[], AbstractContextManager[Place]],
    shelf: ResultCache,
    progress: Progress,
) -> SelfTest:
    """The A/A run of a device in its configuration: the one that is kept, else one is taken and kept.

    ``twins`` opens the place with one file twice, as "a" and "b".
    """
    key = {"device": fingerprint(facts, state), "threads": threads, "runtime": state["runtime"]}
    if (kept := shelf.find("self-tests", key)) is not None:
        return SelfTest(**{**kept["value"], "interval": tuple(kept["value"]["interval"]), "when": kept["when"]})
    with twins() as place:
        blocks = place.take(ROUNDS, progress).blocks
    middle, interval = ratio(blocks["a"], blocks["b"], ROUNDS.seed)
    spread = float(np.std(differences(blocks["a"], blocks["b"]), ddof=1))
    made = SelfTest(spread, middle, interval, len(blocks["a"]))
    shelf.put("self-tests", key, {name: value for name, value in asdict(made).items() if name != "when"})
    return made
