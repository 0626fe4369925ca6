"""The teachers of a plan."""

from __future__ import annotations

from dataclasses import replace

from compressor.core import UsageError
from compressor.plan import Plan
from compressor.teacher._load import load_teacher
from compressor.teacher._teacher import Teacher, further_plans, named_by

__all__ = ["teacher_of"]


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
        with named_by(alone.model):
            further.append(load(alone))
            further[-1].known_normalization(alone)
        if mismatch := teacher.mismatch(further[-1]):
            raise UsageError(f"--teacher {alone.model}: {mismatch}", hint="give teachers of one task and one input")
    return replace(teacher, further=tuple(further))
