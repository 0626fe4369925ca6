"""Taking latencies of several models at once, so that a drifting machine favours none of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from compressor.bundle import runner
from compressor.core import Progress

Runner = Callable[[], object]
"""One inference at batch 1."""

Blocks = tuple[tuple[float, ...], ...]
"""Milliseconds: one tuple of consecutive samples a block."""


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """How much is timed: ``blocks`` turns of every model, of ``inferences`` each, cut to about ``seconds``."""

    blocks: int
    inferences: int
    seed: int = 0
    seconds: float = 30.0


def interleave(
    runners: Mapping[str, Runner], rounds: TimingConfig, *, warmup: int = 10, progress: Progress
) -> dict[str, Blocks]:
    """Milliseconds of every run of every runner, blocks interleaved: `compressor.bundle.runner.interleave`.

    It is the bundle's own code that takes the times, so that a board and this machine take them alike.
    """
    taken = runner.interleave(
        dict(runners),
        rounds.blocks,
        rounds.inferences,
        rounds.seed,
        rounds.seconds,
        warmup,
        lambda done, total: progress("measuring latency", done, total),
    )
    return {name: tuple(map(tuple, samples)) for name, samples in taken.items()}


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Hold this thread, and those that it starts, on the quietest ``threads`` cores; gives them, none if it cannot."""
    before = os.sched_getaffinity(0)
    try:
        yield tuple(runner.pin(threads))
    finally:
        os.sched_setaffinity(0, before)
