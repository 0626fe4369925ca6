"""Taking latencies of several models at once, so that a drifting machine favours none of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from time import perf_counter_ns

import numpy as np

from compressor.core import Progress

Runner = Callable[[], object]
"""One inference at batch 1."""

Blocks = tuple[tuple[float, ...], ...]
"""Milliseconds: one tuple of consecutive samples a block."""

FEWEST_BLOCKS = 5
FEWEST_INFERENCES = 4


def interleave(
    runners: Mapping[str, Runner],
    *,
    blocks: int,
    inferences: int,
    seed: int,
    warmup: int = 10,
    seconds: float = 30.0,
    progress: Progress,
) -> dict[str, Blocks]:
    """Milliseconds of ``blocks`` x ``inferences`` runs of every runner, blocks interleaved.

    In every block the runners take their turns in random (seeded) order, so that heat, clocks
    and neighbours touch all of them alike (targets.md section 4); a turn is ``inferences`` runs
    in a row, so that caches are as warm as in use.

    Where the warm-up says that all of it would take longer than ``seconds``, first the
    inferences are cut (never under 4), then the blocks (never under 5): it is the number of
    blocks that narrows the interval of the ratio. That floor is kept even where it takes longer.
    """
    round_ms = sum(_warm_up(run, warmup, seconds / 10) for run in runners.values())
    blocks, inferences = _cut(blocks, inferences, rounds=int(seconds * 1e3 / max(round_ms, 1e-6)))
    order = np.random.default_rng(seed)
    names = list(runners)
    samples: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    with _no_garbage_collection():
        for block in range(blocks):
            progress("measuring latency", block, blocks)
            for index in order.permutation(len(names)):
                run = runners[names[index]]
                samples[names[index]].append(tuple(_milliseconds(run) for _ in range(inferences)))
    progress("measuring latency", blocks, blocks)
    return {name: tuple(taken) for name, taken in samples.items()}


def _milliseconds(run: Runner) -> float:
    start = perf_counter_ns()
    run()
    return (perf_counter_ns() - start) / 1e6


def _warm_up(run: Runner, times: int, seconds: float) -> float:
    """Run up to ``times``, at least twice, for about ``seconds``; the median in milliseconds."""
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < times and sum(taken) < seconds * 1e3):
        taken.append(_milliseconds(run))
    return median(taken[1:])  # the first run also allocates


def _cut(blocks: int, inferences: int, rounds: int) -> tuple[int, int]:
    """As many blocks and inferences as ``rounds`` (one inference of every runner each) affords."""
    inferences = min(inferences, max(rounds // blocks, FEWEST_INFERENCES))
    blocks = min(blocks, max(rounds // inferences, FEWEST_BLOCKS))
    return blocks, inferences


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a sample would be timed as inference."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
