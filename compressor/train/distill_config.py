"""The settings of a distillation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from compressor.budgets import Budget
from compressor.core import Json, PlanContext
from compressor.losses import objective
from compressor.train.methods import METHODS
from compressor.train.optimizer_config import OptimizerConfig

__all__ = ["ALL_SCORES", "DistillConfig"]

ALL_SCORES = 128
"""With up to this many classes, all of a teacher's scores for a sample are stored."""


@dataclass(frozen=True)
class DistillConfig:
    """The losses, the augmentation, the optimizer and the length of a distillation.

    The length is ``steps`` where given, else the lesser of ``epochs`` and ``minutes``; minutes become a step count
    after a timed warm-up. Each entry of ``losses`` names a file of ``losses/``, its ``weight`` and its settings.
    Where a loss reads feature maps, the teacher runs in every step. Otherwise its outputs for ``views`` augmented
    views of each image are computed once and stored. The views are reduced where they would take more than ``cache``
    bytes, or longer than a third of ``minutes``.

    ``method`` names one of `compressor.train.methods`, which sets the losses and what else it needs. ``"auto"`` tries
    all of them for ``method_minutes`` on a part of the training samples and takes the one whose student is best on
    another.

    With further teachers (``--teacher``), students learn from the mean of all answers; ``teachers = "weighted"``
    weights each by how it suits the data, ``"nearest"`` takes the one that suits best.

    Images are shifted by up to ``shift`` of their side, mixed with each other if ``mixup`` or ``cutmix`` (the Beta
    distribution's alpha) is above 0, the teacher asked about the mixture, and flipped horizontally. ``hflip = "auto"``
    flips where the teacher's accuracy on flipped images is about as good. For super-resolution, training uses patches
    of ``patch`` x ``patch`` low-resolution pixels, rotated and flipped; the teacher runs once on each whole image. For
    the other settings see `compressor.train.optimizer_config.OptimizerConfig`.
    """

    losses: tuple[Mapping[str, Json], ...] = METHODS["kd"]["losses"]
    method: str = ""
    method_minutes: float = 4.0
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = 20.0
    views: int = 8
    cache: str = "1000MB"
    shift: float = 0.125
    hflip: Literal["auto", "on", "off"] = "auto"
    mixup: float = 0.0
    cutmix: float = 0.0
    patch: int = 48
    teachers: Literal["mean", "weighted", "nearest"] = "mean"
    optimizer: Literal["sgd", "adam"] = "sgd"
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: float = 0.2
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @property
    def optimizer_config(self) -> OptimizerConfig:
        return OptimizerConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(OptimizerConfig)})

    def with_method(self, name: str | None = None) -> Self:
        """Return the settings with those of a method, by default the one that they name; without one as they are."""
        name = self.method if name is None else name
        return dataclasses.replace(self, method="", **METHODS[name]) if name in METHODS else self

    def suits(self, classes: int) -> bool:
        """Tell whether its losses do with the scores that are stored of so many classes: the highest, of many."""
        return classes <= ALL_SCORES or not any(
            getattr(loss, "whole", False) for loss, _ in objective(self.losses).terms
        )

    def problems(self, where: str, plan_context: PlanContext) -> tuple[str, ...]:
        """List what prevents the training, each with a remedy; ``where`` is the settings' name in the profile.

        Raises UsageError for unknown losses and an unreadable ``cache``.
        """
        problems = [f"{where}.{problem}" for problem in self.optimizer_config.problems()]
        if not plan_context.has_train:
            problems.append("there is no training data to distil on: give --data, or use --profile float")
        for name, least in (("steps", 1), ("epochs", 0), ("minutes", 0)):
            value = getattr(self, name)
            if value is not None and (value < least or value == 0 or value == float("inf")):
                problems.append(f"{where}.{name} = {value}: give a number above 0")
        if self.steps is self.epochs is self.minutes is None:
            problems.append(f"{where} has no length: set {where}.minutes, {where}.epochs or {where}.steps")
        for name, valid, remedy in (
            ("views", self.views >= 1, "give 1 or more"),
            ("shift", 0 <= self.shift < 0.5, "give a share of the side, below 0.5"),
            ("patch", self.patch >= 8, "give 8 pixels or more"),
            ("mixup", 0 <= self.mixup < float("inf"), "give 0 or more"),
            ("cutmix", 0 <= self.cutmix < float("inf"), "give 0 or more"),
        ):
            if not valid:
                problems.append(f"{where}.{name} = {getattr(self, name)}: {remedy}")
        Budget.parse(f"bytes={self.cache}")
        problems += self._method_problems(where, plan_context.targets)
        return (*problems, *self._unfit_losses(where, plan_context.targets))

    def _method_problems(self, where: str, targets: str | None) -> list[str]:
        if self.method and self.method not in ("auto", *METHODS):
            return [f"{where}.method = {self.method!r} is not known: take auto or one of {', '.join(METHODS)}"]
        if self.method in METHODS and (field := self._overridden()):
            return [f"{where}.method = {self.method!r} sets {where}.{field}, which is given too: leave one of them out"]
        if self.method and targets != "labels":
            return [f"{where}.method = {self.method!r} is for labelled images: name the losses, and leave it out"]
        if self.method == "auto" and where != "distill":
            return [f"{where}.method = 'auto' is for the distill pass: name a method here"]
        if self.method == "auto" and not 0 < self.method_minutes < float("inf"):
            return [f"{where}.method_minutes = {self.method_minutes}: give a number above 0"]
        return []

    def _overridden(self) -> str | None:
        """The first setting that was changed and that the method sets otherwise."""
        blank = DistillConfig()
        for name, value in METHODS[self.method].items():
            given = getattr(self, name)
            if given != getattr(blank, name) and json.dumps(given) != json.dumps(value):
                return name
        return None

    def _unfit_losses(self, where: str, targets: str | None) -> list[str]:
        if targets == "masks":
            return [f"{where} learns from images of classes or photographs, not from masks: take --profile ptq"]
        images = targets == "images"
        remedy = "take target-l1 and output-l1" if images else "take kl and cross-entropy"
        return [
            f"{where}.losses has {loss.kind}, which is not for data of {targets or 'no targets'}: {remedy}"
            for loss, _ in objective(self.losses).terms
            if loss.needs != {"features"} and images != getattr(loss, "regression", False)
        ]
