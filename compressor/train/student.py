"""A student of a run, distilled: from its artifact to the artifact trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.budgets import Budget as Limit
from compressor.core import Context, Json, Model, Split
from compressor.data import PreparedPhotographs
from compressor.frontend import load, save
from compressor.losses import objective
from compressor.preprocessing import normalize
from compressor.train import workers
from compressor.train.augmentation import Augmentation
from compressor.train.distil import Budget, answering, distil, live
from compressor.train.inherit import inherit
from compressor.train.distill_config import DistillConfig
from compressor.train.patches import Patches
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets

__all__ = ["distil_student", "learned", "prepared", "told"]

_LOOKED_AT = 1000
_TIMED = 256
_ASKING = 1 / 3
"""Of the minutes of a training, what the teacher may be asked for before it."""
_AS_WELL = 0.95
"""Of its accuracy, what a teacher must keep on mirrored images to be asked about them."""


@dataclass(frozen=True)
class Prepared:
    """Samples with the teacher's answers, and what it cost."""

    taught: Any
    teacher: nn.Module
    live: bool
    metrics: Mapping[str, Json]
    pinned: Mapping[str, Json]
    """Settings that were left open, as they came out."""


def prepared(settings: DistillConfig, teacher: Model, context: Context, split: Split | None = None) -> Prepared:
    """Draw the augmentations and store the teacher's answers, where that has not been done before.

    To ``split``, where one is given; else to the training half.
    """
    assert context.data is not None
    assert context.data.train is not None
    split, network = split or context.data.train, load(teacher)
    if isinstance(split, PreparedPhotographs):
        return _of_photographs(settings, split, teacher, network, context)
    answer = answering(network, settings.optimizer_config.precision, context.device)
    mirror = settings.mirror
    if mirror == "auto":
        alike = partial(_knows_mirrored, split, teacher, answer, context.seed)
        mirror = workers.broadcast(lambda: "on" if alike() else "off", context.device)
    augmentation = Augmentation(settings.shift, mirror == "on", settings.mixup)
    samples = Samples(split, teacher.input, teacher.normalization, teacher.outputs, augmentation, context.seed)
    said: dict[str, Json] = {"samples": len(samples), "from": split.name, "mirrored": mirror == "on"}
    if "features" in objective(settings.losses).needs:
        said |= {"teacher": "live: a loss reads its feature maps"}
        return Prepared(live(samples), network, True, said, {"mirror": mirror})
    limit = int(Limit.parse(f"bytes={settings.cache}").limit)
    views = min(settings.views, SoftTargets.affordable(len(samples), teacher.outputs, limit))
    told = f"{teacher.sha256} {settings.optimizer_config.precision} {torch.get_num_threads()}"
    key = [told, split.fingerprint, dataclasses.asdict(augmentation), context.seed]
    taught = SoftTargets(samples, views, context.kept("soft-targets", key), told)
    if settings.steps is None and settings.minutes is not None:
        fitting = partial(_fitting, taught, answer, _ASKING * 60 * settings.minutes)
        remember = partial(context.memo, "views", [*key, views, settings.minutes], fitting)
        taught = replace(taught, views=min(views, workers.broadcast(remember, context.device)))
    asked = taught.prepare(answer, context.progress) if workers.is_main_process() else 0
    workers.barrier(context.device)
    said |= {"teacher": "stored", "views": taught.views, "teacher_asked": asked, "stored_bytes": taught.bytes}
    return Prepared(taught, network, False, said, {"mirror": mirror, "views": taught.views})


def _fitting(taught: SoftTargets, answer: Callable[[Tensor], Tensor], seconds: float) -> int:
    """Views whose answers take so long, one at least; those that are stored already take nothing."""
    images, _ = taught.samples.batch(np.arange(min(_TIMED, len(taught.samples))), taught.samples.drawn(0))
    answer(images)  # the first also builds
    begun = time.perf_counter()
    answer(images)
    each = (time.perf_counter() - begun) / len(images) * len(taught.samples)
    return max(1, taught.complete, int(seconds / each))


def _of_photographs(
    settings: DistillConfig, split: PreparedPhotographs, teacher: Model, network: nn.Module, context: Context
) -> Prepared:
    """Patches with what the teacher makes of their photographs, stored; where no loss asks for that, without."""
    needs = objective(settings.losses).needs
    # What reads the student's output and no label compares it with the teacher's.
    asks = any("logits" in loss.needs and "labels" not in loss.needs for loss, _ in objective(settings.losses).terms)
    mirror = "off" if settings.mirror == "off" else "on"
    key = [teacher.sha256, settings.optimizer_config.precision, torch.get_num_threads(), split.fingerprint]
    folder = context.kept("enlarged", key) if asks else None
    patches = Patches(split, settings.patch, mirror == "on", context.seed, folder)
    said: dict[str, Json] = {"samples": len(patches), "from": split.name, "patch": settings.patch}
    if "features" in needs:
        return Prepared(replace(patches, folder=None), network, True, said | {"teacher": "live"}, {"mirror": mirror})
    if folder is not None:
        answer = answering(network, settings.optimizer_config.precision, context.device, any_size=True)
        asked = patches.prepare(answer, context.progress) if workers.is_main_process() else 0
        workers.barrier(context.device)
        said |= {"teacher": "stored", "teacher_asked": asked, "stored_bytes": patches.bytes}
    return Prepared(patches, network, False, said, {"mirror": mirror})


def distil_student(
    settings: DistillConfig, init: str, teacher: Model, student: Model, context: Context
) -> tuple[Model, dict[str, Json], dict[str, Json]]:
    """Train ``student`` as ``settings`` say; write its weights to the workdir.

    ``init`` is ``teacher`` where first weights are cut from the teacher's. Returns the trained student,
    the metrics, and the settings that pin what was left open.
    """
    ready = prepared(settings, teacher, context)
    network = load(student)
    inherited = inherit(network, ready.teacher) if init == "teacher" else 0.0
    steps, curve = learned(settings, network, ready, [student.sha256, teacher.sha256, init], context)
    weights = context.workdir / "student.safetensors"
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    trained = replace(student, weights=weights, sha256=save(state, weights))
    metrics = {**ready.metrics, "init": init, "inherited": inherited, **told(settings, steps, curve)}
    return trained, metrics, {"steps": steps, **ready.pinned}


def learned(
    settings: DistillConfig, network: nn.Module, ready: Prepared, key: Json, context: Context, what: str = "distil"
) -> tuple[int, list[dict[str, Json]]]:
    """Train ``network`` in place, going on where a stopped run with the same ``key`` left off: steps and curve."""
    samples: Samples | Patches = ready.taught.samples
    said = [key, dataclasses.asdict(settings), samples.split.fingerprint, context.seed, context.device, workers.world()]
    return distil(
        network,
        ready.taught,
        objective(settings.losses),
        settings.optimizer_config,
        Budget(settings.steps, settings.epochs, settings.minutes),
        teacher=ready.teacher if ready.live else None,
        seed=context.seed,
        device=context.device,
        checkpoint=context.kept("training", said) / "checkpoint.pt",
        remember=lambda compute: context.memo("steps", said, compute),
        progress=context.progress,
        what=what,
    )


def told(settings: DistillConfig, steps: int, curve: Sequence[Json]) -> dict[str, Json]:
    """Of a training, for the report."""
    return {
        "steps": steps,
        "batch": settings.batch,
        "losses": [dict(term) for term in settings.losses],
        "loss": curve[-1]["loss"],
        "curve": list(curve),
    }


def _knows_mirrored(split: Split, teacher: Model, answer: Any, seed: int) -> bool:
    """Whether the teacher's accuracy on mirrored training images is as good as on the images themselves."""
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(split))[:_LOOKED_AT])
    images = torch.from_numpy(normalize(split.pixels(rows), teacher.normalization))
    labels = torch.from_numpy(split.labels[rows])
    right, mirrored = (float((answer(each).argmax(1) == labels).float().mean()) for each in (images, images.flip(3)))
    return mirrored >= _AS_WELL * right
