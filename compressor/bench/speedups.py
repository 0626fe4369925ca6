"""How many times as fast as a float graph others are, quickly: for choosing between them, not for reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.core import Progress, Target
from compressor.machine import Judgement

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["quick_speedups"]

_SECONDS = 1.5
"""For each file."""


def quick_speedups(
    base: Path, paths: Sequence[Path], feeds: Feeds, target: Target, judge: Judgement, seed: int, progress: Progress
) -> list[float | None]:
    """Return the ratio of the latency of ``base`` to that of each of ``paths``, graphs that all take ``feeds``.

    They take turns on this machine where it is the target; else the target's estimate decides. None where it has none.
    """
    if not paths:
        return []
    if not judge.times_count:
        return _estimated(base, paths, feeds, target)
    return _measured(base, paths, feeds, target, judge.backend.name, seed, progress)


def _measured(
    base: Path, paths: Sequence[Path], feeds: Feeds, target: Target, backend: str, seed: int, progress: Progress
) -> list[float | None]:
    from compressor.bench.device import LoadedModel, here
    from compressor.bench.statistics import ratio
    from compressor.bench.timing import TimingConfig

    models = {path.name: LoadedModel(path, backend, feeds) for path in (base, *paths)}
    config = TimingConfig(blocks=12, inferences=10, seed=seed, seconds=_SECONDS * len(models))
    with here(models, target.threads) as device:
        blocks = device.take(config, progress).blocks
    return [ratio(blocks[base.name], blocks[path.name], seed)[0] for path in paths]


def _estimated(base: Path, paths: Sequence[Path], feeds: Feeds, target: Target) -> list[float | None]:
    import onnx

    from compressor.bench.estimate import estimate

    shapes = {name: array.shape for name, array in feeds.items()}

    def median(path: Path) -> float | None:
        found = estimate(onnx.load(str(path)), shapes, target)
        return None if found is None else found.median

    reference = median(base)
    medians = [median(path) for path in paths]
    return [None if reference is None or not each else reference / each for each in medians]
