"""A training that a stopped run goes on with."""

from __future__ import annotations

import dataclasses

from torch import nn

from compressor.core import Context, Json
from compressor.losses import objective
from compressor.train import workers
from compressor.train.distill_config import DistillConfig
from compressor.train.fit import Duration, fit
from compressor.train.teacher import PreparedTeacher

__all__ = ["fit_with_checkpoints"]


def fit_with_checkpoints(
    settings: DistillConfig,
    network: nn.Module,
    prepared: PreparedTeacher,
    key: Json,
    context: Context,
    what: str = "distill",
) -> tuple[int, list[dict[str, Json]]]:
    """Train ``network`` in place; return the number of steps and the loss curve.

    A stopped training with the same ``key`` goes on from its checkpoint. ``what`` names the training in progress
    messages.
    """
    samples = prepared.data.samples
    inputs = [
        key, dataclasses.asdict(settings), samples.split.fingerprint, context.seed, context.device, workers.world()
    ]  # fmt: skip
    return fit(
        network,
        prepared.data,
        objective(settings.losses),
        settings.optimizer_config,
        Duration(settings.steps, settings.epochs, settings.minutes),
        teacher=prepared.network if prepared.live else None,
        seed=context.seed,
        device=context.device,
        checkpoint=context.kept("training", inputs) / "checkpoint.pt",
        remember=lambda compute: context.memo("steps", inputs, compute),
        progress=context.progress,
        what=what,
    )
