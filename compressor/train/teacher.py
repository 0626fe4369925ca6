"""A teacher's outputs for a training: stored once, or computed in every step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from compressor.budgets import Budget
from compressor.core import Context, ImageSplit, Json, Model, Normalization, Split, UsageError
from compressor.data import ImagePairs, PreparedSplit
from compressor.frontend import load_network
from compressor.losses import objective
from compressor.preprocessing import normalize
from compressor.store import identity
from compressor.train import workers
from compressor.train.augmentation import Augmentation
from compressor.train.distill_config import DistillConfig
from compressor.train.distillation_data import DistillationData
from compressor.train.ensemble import Ensemble, renormalised
from compressor.train.live_targets import LiveTargets
from compressor.train.patches import Patches
from compressor.train.predictor import as_scores, graph_predictor, make_predictor
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets
from compressor.versions import installed_versions

__all__ = ["PreparedTeacher", "prepare_teacher"]

_FLIP_SAMPLES = 1000
_WEIGHED_SAMPLES = 512
_TIMED_SAMPLES = 256
_TEACHER_SHARE = 1 / 3
"""The share of a training's minutes that the computation of the teacher's outputs may take."""
_FLIPPED_ACCURACY = 0.95
"""The share of its accuracy that a teacher must keep on flipped images for ``hflip = "auto"`` to flip."""


@dataclass(frozen=True)
class PreparedTeacher:
    """A teacher's network, and training samples with its outputs."""

    network: nn.Module | None
    """None of an ONNX graph, which answers and shows nothing else."""
    data: DistillationData
    live: bool
    """Whether the teacher runs in every step, because a loss reads its feature maps."""
    metrics: Mapping[str, Json]
    pinned: Mapping[str, Json]
    """The values chosen for settings that were left open."""


def prepare_teacher(
    settings: DistillConfig, teacher: Model, context: Context, split: Split | None = None
) -> PreparedTeacher:
    """Draw the augmentations, and compute and store the teacher's outputs unless they are stored already.

    The samples are those of ``split``, by default the training half.
    """
    assert context.data is not None
    assert context.data.train is not None
    split = split or context.data.train
    network = None if teacher.source is None else load_network(teacher)
    terms = objective(settings.losses)
    if network is None and "features" in terms.needs:
        raise UsageError(
            "a loss reads the teacher's feature maps, and an ONNX teacher shows its outputs alone",
            hint="take losses on outputs: kl and cross-entropy, or output-l1",
        )
    if isinstance(split, ImagePairs):
        return _prepare_photographs(settings, split, teacher, network, context)
    if not isinstance(split, PreparedSplit) or (scaling := teacher.normalization) is None:
        raise UsageError("distillation learns from images of classes, or photographs", hint="give such --data")
    predict, weights = _all_teachers(settings, split, teacher, network, context)
    hflip = settings.hflip
    if hflip == "auto":
        keeps = partial(_keeps_accuracy_when_flipped, split, scaling, predict, context.seed)
        hflip = workers.broadcast(lambda: "on" if keeps() else "off", context.device)
    augmentation = Augmentation(settings.shift, hflip == "on", settings.mixup, settings.cutmix)
    samples = Samples(split, teacher.input, scaling, teacher.outputs, augmentation, context.seed)
    metrics: dict[str, Json] = {"samples": len(samples), "from": split.name, "hflip": hflip == "on"}
    if weights:
        metrics["teachers"] = weights
    if "features" in terms.needs:
        metrics |= {"teacher": "live: a loss reads its feature maps"}
        return PreparedTeacher(network, LiveTargets(samples), True, metrics, {"hflip": hflip})
    if not settings.suits(teacher.outputs):
        raise UsageError(
            f"of {teacher.outputs:,} classes the highest scores are stored, and a loss reads all: those that are "
            "standardised do, and discriminator",
            hint="take losses that are not standardised: kl, dist, decoupled",
        )
    targets = _soft_targets(settings, teacher, samples, predict, context)
    computed = targets.prepare(predict, context.progress) if workers.is_main_process() else 0
    workers.barrier(context.device)
    metrics |= {
        "teacher": "stored",
        "views": targets.views,
        "teacher_inferences": computed,
        "stored_bytes": targets.stored_bytes,
    }
    return PreparedTeacher(network, targets, False, metrics, {"hflip": hflip, "views": targets.views})


def _all_teachers(
    settings: DistillConfig, split: PreparedSplit, teacher: Model, network: nn.Module | None, context: Context
) -> tuple[Callable[[Tensor], Tensor], list[float]]:
    """Return what answers images, and the weights of several teachers; none of one. They are decided once and kept."""
    predict = _predictor(settings, teacher, network, context)
    if not context.further_teachers:
        return predict, []
    given, teachers = teacher.normalization, [predict]
    assert given is not None
    for each in context.further_teachers:
        own = None if each.source is None else load_network(each)
        assert each.normalization is not None
        teachers.append(renormalised(_predictor(settings, each, own, context), each.normalization, given))

    def weigh() -> list[float]:
        rows = np.sort(np.random.default_rng([context.seed, 7]).permutation(len(split))[:_WEIGHED_SAMPLES])
        images = torch.from_numpy(normalize(split.pixels(rows), given))
        return list(Ensemble.of(teachers, settings.teachers, images, split.labels[rows]).weights)

    key = [settings.teachers, teacher.sha256, [each.sha256 for each in context.further_teachers], split.fingerprint]
    weights: list[float] = workers.broadcast(lambda: context.memo("teachers", key, weigh), context.device)
    return Ensemble(tuple(teachers), tuple(weights)), weights


def _predictor(
    settings: DistillConfig, teacher: Model, network: nn.Module | None, context: Context
) -> Callable[[Tensor], Tensor]:
    """The teacher's output for images: of an ONNX graph by its runtime, of a module in the training's precision."""
    if network is None:
        assert teacher.graph is not None
        return as_scores(graph_predictor(teacher.graph))
    any_size = context.task.spatial
    graphs = context.kept("teacher-graph", [identity(teacher), installed_versions()])
    precision = settings.optimizer_config.precision
    return as_scores(make_predictor(network, precision, context.device, graphs, any_size=any_size))


def _soft_targets(
    settings: DistillConfig, teacher: Model, samples: Samples, predict: Callable[[Tensor], Tensor], context: Context
) -> SoftTargets:
    """The store of the teacher's outputs, with as many views as the limits on bytes and minutes allow."""
    limit = int(Budget.parse(f"bytes={settings.cache}").limit)
    views = min(settings.views, SoftTargets.affordable_views(len(samples), teacher.outputs, limit))
    teachers = " ".join(each.sha256 for each in (teacher, *context.further_teachers))
    weighting = settings.teachers if context.further_teachers else ""
    fingerprint = f"{teachers} {weighting} {settings.optimizer_config.precision} {torch.get_num_threads()}"
    key = [fingerprint, samples.split.fingerprint, dataclasses.asdict(samples.augmentation), context.seed]
    targets = SoftTargets(samples, views, context.kept("soft-targets", key), fingerprint)
    if settings.steps is not None or settings.minutes is None:
        return targets
    seconds = _TEACHER_SHARE * 60 * settings.minutes
    affordable = partial(_views_within, targets, predict, seconds)
    remember = partial(context.memo, "views", [*key, views, settings.minutes], affordable)
    return replace(targets, views=min(views, workers.broadcast(remember, context.device)))


def _views_within(targets: SoftTargets, predict: Callable[[Tensor], Tensor], seconds: float) -> int:
    """The number of views, at least one, that take so many seconds to compute; stored views take none."""
    images, _ = targets.samples.batch(np.arange(min(_TIMED_SAMPLES, len(targets.samples))), targets.samples.drawn(0))
    predict(images)  # the first call also builds the session
    begun = time.perf_counter()
    predict(images)
    view = (time.perf_counter() - begun) / len(images) * len(targets.samples)
    return max(1, targets.stored_views, int(seconds / view))


def _prepare_photographs(
    settings: DistillConfig, split: ImagePairs, teacher: Model, network: nn.Module | None, context: Context
) -> PreparedTeacher:
    """Patches with the teacher's output for their images, stored; without it where no loss compares with it."""
    terms = objective(settings.losses)
    # A loss that reads the student's output and no label compares it with the teacher's.
    compares = any("logits" in loss.needs and "labels" not in loss.needs for loss, _ in terms.terms)
    hflip = "off" if settings.hflip == "off" else "on"
    key = [teacher.sha256, settings.optimizer_config.precision, torch.get_num_threads(), split.fingerprint]
    folder = context.kept("enlarged", key) if compares else None
    patches = Patches(split, settings.patch, hflip == "on", context.seed, folder)
    metrics: dict[str, Json] = {"samples": len(patches), "from": split.name, "patch": settings.patch}
    if "features" in terms.needs:
        metrics |= {"teacher": "live"}
        return PreparedTeacher(network, replace(patches, folder=None), True, metrics, {"hflip": hflip})
    if folder is not None:
        predict = _predictor(settings, teacher, network, context)
        computed = patches.prepare(predict, context.progress) if workers.is_main_process() else 0
        workers.barrier(context.device)
        metrics |= {"teacher": "stored", "teacher_inferences": computed, "stored_bytes": patches.stored_bytes}
    return PreparedTeacher(network, patches, False, metrics, {"hflip": hflip})


def _keeps_accuracy_when_flipped(
    split: ImageSplit, scaling: Normalization, predict: Callable[[Tensor], Tensor], seed: int
) -> bool:
    """Whether the teacher's accuracy on flipped training images is at least 95 % of that on the images themselves."""
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(split))[:_FLIP_SAMPLES])
    images = torch.from_numpy(normalize(split.pixels(rows), scaling))
    labels = torch.from_numpy(split.labels[rows])
    plain, flipped = (float((predict(x).argmax(1) == labels).float().mean()) for x in (images, images.flip(3)))
    return flipped >= _FLIPPED_ACCURACY * plain
