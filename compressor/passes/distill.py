"""The student, taught by the teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from compressor.core import Artifact, Context, Json, Prospect, Result

if TYPE_CHECKING:
    from compressor.train.recipe import Recipe

__all__ = ["Distill"]

_HINTON: tuple[Mapping[str, Json], ...] = (
    {"loss": "kl", "weight": 0.9, "temperature": 4.0},
    {"loss": "cross-entropy", "weight": 0.1},
)


@dataclass(frozen=True)
class Distill:
    """Train the student on the teacher's answers, which are computed once for ``views`` augmented views.

    Its length is the first given of ``steps``, ``epochs`` and ``minutes`` (which become steps after a timed
    warm-up). ``losses`` are files of ``losses/``, each with a ``weight`` and its own settings; one that reads
    feature maps has the teacher run in every step. ``init = "teacher"`` cuts the first weights from
    the teacher's. ``mirror = "auto"`` mirrors where the teacher knows mirrored images as well. ``cache`` is
    how many bytes the stored answers may take. The rest is as in `compressor.train.recipe.Recipe`.
    """

    losses: tuple[Mapping[str, Json], ...] = _HINTON
    init: Literal["teacher", "random"] = "teacher"
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = 20.0
    views: int = 8
    cache: str = "1000MB"
    shift: float = 0.125
    mirror: Literal["auto", "on", "off"] = "auto"
    mixup: float = 0.0
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: float = 0.2
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    kind: ClassVar[str] = "distill"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "student"})
    gives: ClassVar[frozenset[str]] = frozenset({"student"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = True

    @property
    def recipe(self) -> Recipe:
        from compressor.train.recipe import Recipe

        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})

    def check(self, prospect: Prospect) -> tuple[str, ...]:
        from compressor.budgets import Budget
        from compressor.losses import objective

        problems = [f"distill.{problem}" for problem in self.recipe.problems()]
        if not prospect.has_train:
            problems.append("there is no training data to distil on: give --data, or use --profile float")
        for name, least in (("steps", 1), ("epochs", 0), ("minutes", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                problems.append(f"distill.{name} = {value}: give a number above 0")
        if self.steps is self.epochs is self.minutes is None:
            problems.append("distill has no length: set distill.minutes, distill.epochs or distill.steps")
        if self.views < 1 or not 0 <= self.shift < 0.5 or not 0 <= self.mixup < float("inf"):
            problems.append("distill has a setting out of range: views from 1, shift from 0 to below 0.5, mixup from 0")
        objective(self.losses)
        Budget.parse(f"bytes={self.cache}")
        return tuple(problems)

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor.train.student import distil_student

        assert artifact.student is not None
        student, metrics, pinned = distil_student(self, artifact.teacher, artifact.student, context)
        return Result(replace(artifact, student=student), metrics, pinned=pinned)
