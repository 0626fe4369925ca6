"""Distillation of a run's student, from its artifact to the trained artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from compressor.core import Context, ImageSplit, Json, Model
from compressor.frontend import load_network, save_weights
from compressor.train.choose_method import choose_method
from compressor.train.distill_config import DistillConfig
from compressor.train.fit_with_checkpoints import fit_with_checkpoints
from compressor.train.inherit import inherit
from compressor.train.teacher import PreparedTeacher, prepare_teacher

__all__ = ["distill_student", "training_metrics"]


def distill_student(
    settings: DistillConfig, init: str, teacher: Model, student: Model, context: Context
) -> tuple[Model, dict[str, Json], dict[str, Json]]:
    """Train ``student`` as ``settings`` say; write its weights to the workdir.

    With ``init = "teacher"`` the first weights are cut from the teacher's, where that is a torch network. Returns
    the trained student, the metrics, and the values chosen for settings that were left open.
    """
    key = [student.sha256, teacher.sha256, init]
    tried: dict[str, Json] = {}
    if settings.method == "auto":
        method, tried = _tried(settings, init, teacher, student, key, context)
        settings = dataclasses.replace(settings, method=method)
    settings = settings.with_method()
    prepared = prepare_teacher(settings, teacher, context)
    network, inherited = _initial(student, init, prepared)
    steps, curve = fit_with_checkpoints(settings, network, prepared, key, context)
    weights = context.workdir / "student.safetensors"
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    trained = student.with_weights(weights, save_weights(state, weights))
    begun = {"init": "random" if inherited is None else init, "inherited": inherited or 0.0}
    metrics = {**prepared.metrics, **begun, **training_metrics(settings, steps, curve)}
    pinned = {"steps": steps, **prepared.pinned}
    if tried:
        metrics["methods"] = tried
        pinned["method"] = tried["chosen"]
    return trained, metrics, pinned


def _initial(student: Model, init: str, prepared: PreparedTeacher) -> tuple[nn.Module, float | None]:
    """Return the student with its first weights, and the share that is the teacher's; None where it asks for none."""
    network = load_network(student)
    start = prepared.network if init == "teacher" else None
    return network, None if start is None else inherit(network, start)


def _tried(
    settings: DistillConfig, init: str, teacher: Model, student: Model, key: Json, context: Context
) -> tuple[str, dict[str, Json]]:
    def prepare(config: DistillConfig, learned: ImageSplit) -> PreparedTeacher:
        return prepare_teacher(config, teacher, context, learned)

    def make(prepared: PreparedTeacher) -> nn.Module:
        return _initial(student, init, prepared)[0]

    return choose_method(settings, make, prepare, teacher.outputs, key, context)


def training_metrics(settings: DistillConfig, steps: int, curve: Sequence[Json]) -> dict[str, Json]:
    """The report's record of a training."""
    return {
        "steps": steps,
        "batch": settings.batch,
        "losses": [dict(term) for term in settings.losses],
        "loss": curve[-1]["loss"],
        "curve": list(curve),
    }
