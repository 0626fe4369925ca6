"""The teachers of a plan."""

from __future__ import annotations

from dataclasses import replace

from compressor.core import CompressError, UsageError
from compressor.plan import Plan
from compressor.teacher._load import load_teacher
from compressor.teacher._teacher import Teacher

__all__ = ["further_plans", "teacher_of"]


def teacher_of(plan: Plan) -> Teacher:
    """Load the teacher, and those that students learn from beside it. Raises UsageError where they do not match."""

    def load(of: Plan) -> Teacher:
        options = of.options
        return load_teacher(
            of.model, options.arch, of.input, of.source, trust=of.trust, task=options.task, metric=options.metric,
            layout=options.layout,
        )  # fmt: skip

    teacher = load(plan)
    further = []
    for alone in further_plans(plan):
        try:
            further.append(load(alone))
        except CompressError as error:
            error.what = f"--teacher {alone.model}: {error.what}"
            raise
        if mismatch := teacher.mismatch(further[-1]):
            raise UsageError(f"--teacher {alone.model}: {mismatch}", hint="give teachers of one task and one input")
    return replace(teacher, further=tuple(further))


def further_plans(plan: Plan) -> list[Plan]:
    """Return the plan for each further teacher, which has code and normalisation of its own."""
    alone = replace(plan.options, arch=None, normalize=None, channels=None, layout=None)
    return [replace(plan, model=path, options=alone) for path in plan.teachers]
