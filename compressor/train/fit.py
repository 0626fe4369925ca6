"""Fit a student to a teacher's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.core import Json, Progress
from compressor.losses import Objective
from compressor.train import workers
from compressor.train.distillation_data import DistillationData
from compressor.train.learner import Learner
from compressor.train.loop import Feed, step_seconds, train
from compressor.train.optimizer_config import OptimizerConfig

__all__ = ["Duration", "fit", "fit_step_seconds"]


@dataclass(frozen=True)
class Duration:
    """The length of a training: ``steps`` where given, else the lesser of ``epochs`` and ``minutes``."""

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None


def fit(
    student: nn.Module,
    data: DistillationData,
    objective: Objective,
    optimizer_config: OptimizerConfig,
    duration: Duration,
    *,
    teacher: nn.Module | None = None,
    seed: int,
    device: str,
    checkpoint: Path | None,
    remember: Callable[[Callable[[], Json]], Json],
    progress: Progress,
    what: str = "distill",
) -> tuple[int, list[dict[str, Json]]]:
    """Train ``student`` in place; return the number of steps and the loss curve.

    ``teacher`` is needed where the objective reads feature maps. ``remember`` stores the step count that minutes
    were converted to, so that a resumed training has the same one. The batch of a step depends on seed and step
    alone, whatever the number of processes that share it.
    """
    optimizer_config = _fitted_batch(optimizer_config, data)
    feed, epoch = _feed(data, optimizer_config.batch, seed)
    with torch.random.fork_rng(devices=[]):  # for the losses' learned modules
        torch.manual_seed(seed)
        learner = Learner(student, objective, data.samples.input, teacher).train()

    def timed_steps(minutes: float) -> int:
        return max(1, int(60 * minutes / step_seconds(learner, feed, optimizer_config, device)))

    steps = duration.steps
    if steps is None:
        lengths = [] if duration.epochs is None else [math.ceil(duration.epochs * epoch)]
        if (minutes := duration.minutes) is not None:
            lengths.append(workers.broadcast(lambda: remember(lambda: timed_steps(minutes)), device))
        steps = min(lengths)
    with torch.random.fork_rng():
        curve = train(
            learner, feed, steps, optimizer_config, seed=seed, device=device, epoch=epoch, checkpoint=checkpoint,
            progress=progress, what=what,
        )  # fmt: skip
    student.cpu().eval()
    return steps, curve


def fit_step_seconds(
    student: nn.Module, data: DistillationData, objective: Objective, optimizer_config: OptimizerConfig, device: str
) -> float:
    """The seconds that a step of `fit` takes; ``student`` is not changed."""
    feed, _ = _feed(data, _fitted_batch(optimizer_config, data).batch, 0)
    return step_seconds(Learner(student, objective, data.samples.input).train(), feed, optimizer_config, device)


def _fitted_batch(optimizer_config: OptimizerConfig, data: DistillationData) -> OptimizerConfig:
    """The settings with a batch no larger than the data."""
    return replace(optimizer_config, batch=min(optimizer_config.batch, len(data.samples)))


def _feed(data: DistillationData, batch: int, seed: int) -> tuple[Feed, int]:
    """The batch of each step, and the number of steps in an epoch."""
    samples = data.samples
    epoch = max(1, len(samples) // batch)

    @lru_cache(maxsize=1)
    def order(number: int) -> NDArray[np.int64]:
        return np.random.default_rng([seed, 1, number]).permutation(len(samples))

    def feed(step: int) -> tuple[Tensor, Tensor, Tensor]:
        number, index = divmod(step, epoch)
        rows = order(number)[index * batch : (index + 1) * batch]
        return data.batch(rows[workers.rank() :: workers.world()], number)

    return feed, epoch
