"""The student, taught by the teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compressor.core import Artifact, Context, Prospect, Result, UsageError
from compressor.train.lessons import Lessons

__all__ = ["Distill"]


@dataclass(frozen=True)
class Distill(Lessons):
    """Train the student on the teacher's answers (Hinton et al. 2015), for as long as `Lessons` say.

    ``init = "teacher"`` cuts the student's first weights from the teacher's, where structure allows it.
    """

    init: Literal["teacher", "random"] = "teacher"

    kind: ClassVar[str] = "distill"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "student"})
    gives: ClassVar[frozenset[str]] = frozenset({"student"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = True

    def check(self, prospect: Prospect) -> tuple[str, ...]:
        return self.problems(self.kind, prospect)

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor.train.student import distil_student

        if artifact.student is None:
            raise UsageError("distill has no student", mend="put a search pass before it in the profile")
        student, metrics, pinned = distil_student(self, self.init, artifact.teacher, artifact.student, context)
        return Result(replace(artifact, student=student), metrics, pinned=pinned)
