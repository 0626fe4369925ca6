"""What ``--dry-run`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressor.core import Json

if TYPE_CHECKING:
    from compressor.plan import Plan
    from compressor.teacher import Teacher

__all__ = ["checked"]


def checked(plan: Plan, teacher: Teacher, folder: Path) -> Json:
    """Return a plan that was checked, as a document."""
    from compressor.teacher import sample_sizes

    return {
        "model": str(plan.model),
        "family": teacher.network.family,
        "task": teacher.task.kind,
        "params": teacher.network.params,
        "macs": teacher.network.macs,
        "input": sample_sizes(teacher.network),
        "target": plan.target.name,
        "profile": plan.profile.name,
        "passes": [each.kind for each in plan.passes],
        "data": plan.source.evaluate.name if plan.source else None,
        "output": str(folder),
    }
