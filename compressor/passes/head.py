"""The pass that puts another head on the network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compressor.core import Artifact, Context, PlanContext, Result

__all__ = ["Head"]


@dataclass(frozen=True)
class Head:
    """Swap the head, and compare before and after: parameters, MACs, bytes, latency, accuracy.

    ``style = "imdn"`` is a 1x1 convolution to ``width`` channels, ``blocks`` of IMDN on the last feature map, pooling
    and a linear layer. Each block keeps ``distil`` channels back at each split (by default a quarter of the width),
    with contrast-aware ``attention`` or without. ``plain`` is the family's own head. The backbone keeps its weights,
    the new head's are random: put `distill` after this pass.

    Both networks are timed whole, in turns, in the deployed form (``precision = "auto"``: INT8 where the target runs
    it). Both are distilled for ``halving_minutes`` in all, from weights cut from the teacher's, and judged on training
    samples that are held out (``halving_steps``: the steps that an earlier run found).
    """

    style: Literal["imdn", "plain"] = "imdn"
    width: int = 32
    blocks: int = 1
    distil: int | None = None
    attention: bool = True
    precision: Literal["auto", "fp32", "int8"] = "auto"
    halving_minutes: float = 4.0
    halving_steps: tuple[int, ...] = ()

    kind: ClassVar[str] = "head"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    produces: ClassVar[frozenset[str]] = frozenset({"student"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        from compressor.models.common.encoding import MOST_BLOCKS, MOST_CHANNELS

        problems = []
        for name, value, least, most in (
            ("width", self.width, 2, MOST_CHANNELS),
            ("blocks", self.blocks, 1, MOST_BLOCKS),
            ("distil", self._distil, 1, self.width - 1),
        ):
            if not least <= value <= most:
                problems.append(f"head.{name} = {value}: give {least} to {max(least, most)}")
        if self.precision != "auto" and self.precision not in plan_context.target.precisions:
            problems.append(f"target {plan_context.target.name} does not run {self.precision}: set head.precision")
        if not 0 <= self.halving_minutes < math.inf or any(steps < 1 for steps in self.halving_steps):
            problems.append(f"head.halving_minutes = {self.halving_minutes}: give minutes, or 0 for no distillation")
        elif self.halving_minutes and not plan_context.has_train:
            problems.append("head.halving_minutes needs training data: give --data, or set it to 0")
        elif self.halving_minutes and plan_context.targets != "labels":
            problems.append("head.halving_minutes compares top-1, and the data has no labels: set it to 0")
        return tuple(problems)

    @property
    def _distil(self) -> int:
        return max(1, self.width // 4) if self.distil is None else self.distil

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor.models.common.head import ImdnHead
        from compressor.search.swap import swap

        new = ImdnHead(self.width, self.blocks, self._distil, self.attention)
        head = None if self.style == "plain" else new
        precision: str = self.precision
        if precision == "auto":
            precision = "int8" if "int8" in context.target.precisions else "fp32"
        swapped = swap(
            head, precision, self.halving_minutes, self.halving_steps, artifact.teacher, artifact.result, context
        )
        return Result(replace(artifact, student=swapped.student), swapped.metrics, swapped.warnings, swapped.pinned)
