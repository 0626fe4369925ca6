"""Measuring the latencies of several models in turns, so that a machine that drifts favours none of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from compressor.bundle import runner
from compressor.core import Progress

Runner = Callable[[], object]
"""One run at the usual sizes."""

Blocks = tuple[tuple[float, ...], ...]
"""Milliseconds: one tuple of consecutive samples a block."""


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """How much is timed: ``blocks`` turns of each model, ``inferences`` runs a turn, cut to ``seconds`` or so."""

    blocks: int
    inferences: int
    seed: int = 0
    seconds: float = 30.0


def interleave(
    runners: Mapping[str, Runner], config: TimingConfig, *, warmup: int = 10, progress: Progress
) -> dict[str, Blocks]:
    """Return the milliseconds of every run of every runner, blocks interleaved.

    The bundle's own code measures (`compressor.bundle.runner.interleave`), so that boards and this machine do it alike.
    """
    measured = runner.interleave(
        dict(runners),
        config.blocks,
        config.inferences,
        config.seed,
        config.seconds,
        warmup,
        lambda done, total: progress("measuring latency", done, total),
    )
    return {name: tuple(map(tuple, samples)) for name, samples in measured.items()}


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Bind this thread, and those that it starts, to the least busy ``threads`` cores; yield those, or none."""
    before = os.sched_getaffinity(0)
    try:
        yield tuple(runner.pin(threads))
    finally:
        os.sched_setaffinity(0, before)
