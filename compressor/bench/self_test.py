"""The A/A run of a device: how much two measurements of one and the same file differ there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import numpy as np

from compressor.bench.cache import ResultCache
from compressor.bench.device import Device
from compressor.bench.statistics import detectable, differences, ratio
from compressor.bench.timing import TimingConfig
from compressor.core import Json, Progress
from compressor.machine import fingerprint

__all__ = ["SelfTest", "self_test"]

_CONFIG = TimingConfig(blocks=15, inferences=20, seed=1)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """An A/A run: its true ratio is 1."""

    spread: float
    """s_d, the standard deviation over blocks of the log ratio."""
    ratio: float
    interval: tuple[float, float]
    """The ratio's 90 % interval: it should hold 1."""
    blocks: int
    when: str | None = None
    """When it was measured; None: now."""

    def detectable(self, blocks: int) -> float:
        """Return the smallest change that so many blocks resolve here, as a share."""
        return detectable(self.spread, blocks)


def self_test(
    facts: Mapping[str, Json],
    state: Mapping[str, Json],
    threads: int,
    open_twins: Callable[[], AbstractContextManager[Device]],
    cache: ResultCache,
    progress: Progress,
) -> SelfTest:
    """Return the A/A run of a device in its configuration: the cached one, else a new one, which is cached.

    ``open_twins`` opens the device with one file twice, as "a" and "b".
    """
    key = {"device": fingerprint(facts, state), "threads": threads, "runtime": state["runtime"]}
    if (cached := cache.find("self-tests", key)) is not None:
        return SelfTest(**{**cached["value"], "interval": tuple(cached["value"]["interval"]), "when": cached["when"]})
    with open_twins() as device:
        blocks = device.take(_CONFIG, progress).blocks
    middle, interval = ratio(blocks["a"], blocks["b"], _CONFIG.seed)
    spread = float(np.std(differences(blocks["a"], blocks["b"]), ddof=1))
    made = SelfTest(spread, middle, interval, len(blocks["a"]))
    cache.put("self-tests", key, {name: value for name, value in asdict(made).items() if name != "when"})
    return made
