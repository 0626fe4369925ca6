"""Distillation of a run's student, from its artifact to the trained artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from compressor.core import Context, Json, Model
from compressor.frontend import load_network, save_weights
from compressor.losses import objective
from compressor.train import workers
from compressor.train.distill_config import DistillConfig
from compressor.train.fit import Duration, fit
from compressor.train.inherit import inherit
from compressor.train.teacher import PreparedTeacher, prepare_teacher

__all__ = ["distill_student", "fit_with_checkpoints", "training_metrics"]


def distill_student(
    settings: DistillConfig, init: str, teacher: Model, student: Model, context: Context
) -> tuple[Model, dict[str, Json], dict[str, Json]]:
    """Train ``student`` as ``settings`` say; write its weights to the workdir.

    With ``init = "teacher"`` the first weights are cut from the teacher's, where that is a torch network. Returns
    the trained student, the metrics, and the values chosen for settings that were left open.
    """
    prepared = prepare_teacher(settings, teacher, context)
    network = load_network(student)
    start = prepared.network if init == "teacher" else None
    inherited = 0.0 if start is None else inherit(network, start)
    key = [student.sha256, teacher.sha256, init]
    steps, curve = fit_with_checkpoints(settings, network, prepared, key, context)
    weights = context.workdir / "student.safetensors"
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    trained = student.with_weights(weights, save_weights(state, weights))
    begun = {"init": "random" if start is None else init, "inherited": inherited}
    metrics = {**prepared.metrics, **begun, **training_metrics(settings, steps, curve)}
    return trained, metrics, {"steps": steps, **prepared.pinned}


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


def training_metrics(settings: DistillConfig, steps: int, curve: Sequence[Json]) -> dict[str, Json]:
    """The report's record of a training."""
    return {
        "steps": steps,
        "batch": settings.batch,
        "losses": [dict(term) for term in settings.losses],
        "loss": curve[-1]["loss"],
        "curve": list(curve),
    }
