"""Distillation of the student."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compressor.core import Artifact, Context, PlanContext, Result, UsageError
from compressor.train.distill_config import DistillConfig

__all__ = ["Distill"]


@dataclass(frozen=True)
class Distill(DistillConfig):
    """Train the student on the teacher's outputs (Hinton et al. 2015, arXiv 1503.02531).

    ``init = "teacher"`` cuts the student's first weights from the teacher's, where the structures allow it.
    The other settings are those of `compressor.train.distill_config.DistillConfig`.
    """

    init: Literal["teacher", "random"] = "teacher"

    kind: ClassVar[str] = "distill"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "student"})
    produces: ClassVar[frozenset[str]] = frozenset({"student"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = True

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        return self.problems(self.kind, plan_context)

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor.train.student import distill_student

        if artifact.student is None:
            raise UsageError("distill has no student", hint="put a search pass before it in the profile")
        student, metrics, pinned = distill_student(self, self.init, artifact.teacher, artifact.student, context)
        return Result(replace(artifact, student=student), metrics, pinned=pinned)
