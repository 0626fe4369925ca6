"""What a training on a teacher's answers is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from compressor.budgets import Budget
from compressor.core import Json, PlanContext
from compressor.losses import objective
from compressor.train.optimizer_config import OptimizerConfig

__all__ = ["Lessons"]

_HINTON: tuple[Mapping[str, Json], ...] = (
    {"loss": "kl", "weight": 0.9, "temperature": 4.0},
    {"loss": "cross-entropy", "weight": 0.1},
)


@dataclass(frozen=True)
class DistillConfig:
    """What is learned, from which images, and for how long.

    The length is ``steps``, where they are given; else the lesser of ``epochs`` and ``minutes`` (which become
    steps after a timed warm-up). ``losses`` are files of ``losses/``, each with a ``weight`` and its own
    settings; one that reads feature maps has the teacher run in every step, else its answers to ``views``
    augmented views of each image are computed once and stored, in at most ``cache`` bytes (to fewer views,
    where they would take longer than a third of ``minutes``). Images are
    shifted by up to ``shift`` of their side, mixed with each other where ``mixup`` (the Beta distribution's
    alpha) is above 0, and mirrored; ``mirror = "auto"`` does that where the teacher knows mirrored images
    as well. Of photographs, patches of ``patch`` pixels a side of the small image are learned from, turned and
    mirrored; the teacher enlarges each photograph once. The rest is as in `compressor.train.optimizer_config.Recipe`.
    """

    losses: tuple[Mapping[str, Json], ...] = _HINTON
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = 20.0
    views: int = 8
    cache: str = "1000MB"
    shift: float = 0.125
    mirror: Literal["auto", "on", "off"] = "auto"
    mixup: float = 0.0
    patch: int = 48
    optimizer: Literal["sgd", "adam"] = "sgd"
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: float = 0.2
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @property
    def optimizer_config(self) -> OptimizerConfig:
        return OptimizerConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(OptimizerConfig)})

    def problems(self, where: str, plan_context: PlanContext) -> tuple[str, ...]:
        """What stands in the way, each with its mend. Raises UsageError for losses that are not known."""
        problems = [f"{where}.{problem}" for problem in self.optimizer_config.problems()]
        if not plan_context.has_train:
            problems.append("there is no training data to distil on: give --data, or use --profile float")
        for name, least in (("steps", 1), ("epochs", 0), ("minutes", 0)):
            value = getattr(self, name)
            if value is not None and (value < least or value == 0 or value == float("inf")):
                problems.append(f"{where}.{name} = {value}: give a number above 0")
        if self.steps is self.epochs is self.minutes is None:
            problems.append(f"{where} has no length: set {where}.minutes, {where}.epochs or {where}.steps")
        for name, fine, wanted in (
            ("views", self.views >= 1, "give 1 or more"),
            ("shift", 0 <= self.shift < 0.5, "give a share of the side, below 0.5"),
            ("patch", self.patch >= 8, "give 8 pixels or more"),
            ("mixup", 0 <= self.mixup < float("inf"), "give 0 or more"),
        ):
            if not fine:
                problems.append(f"{where}.{name} = {getattr(self, name)}: {wanted}")
        images = plan_context.task == "super-resolution"
        for loss, _ in objective(self.losses).terms:
            if loss.needs != {"features"} and images != getattr(loss, "for_images", False):
                fitting = "pixels and answers, or --profile super-resolution" if images else "kl and cross-entropy"
                problems.append(f"{where}.losses has {loss.kind}, which is not for {plan_context.task}: take {fitting}")
        Budget.parse(f"bytes={self.cache}")
        return tuple(problems)
