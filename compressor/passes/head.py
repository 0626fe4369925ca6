"""Another head for the student."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compressor.core import Artifact, Context, PlanContext, Result

__all__ = ["Head"]

_WIDEST, _DEEPEST = 256, 6
"""As `compressor.models.common.head` has it, which imports torch."""


@dataclass(frozen=True)
class Head:
    """Swap the head, and show what it bought: parameters, MACs, bytes, latency, accuracy.

    ``imdn``: a 1x1 convolution to ``width`` channels and so many ``blocks`` of IMDN on the body's last feature
    map, of which each keeps ``distil`` channels back at each split (a quarter of the width where not given), with
    contrast-aware ``attention`` or without; then pooling and a linear layer. ``plain`` is the family's own head.
    The body keeps its weights, the new head's are at random: put `distill` after it.

    Both networks are timed whole, interleaved, in the form that is deployed (``precision = "auto"``: INT8 where
    the target runs it), and distilled for ``trial_minutes`` together (``trial_steps``: as an earlier run found
    them), each from weights cut from the teacher's, judged on training samples that are held out.
    """

    style: Literal["imdn", "plain"] = "imdn"
    width: int = 32
    blocks: int = 1
    distil: int | None = None
    attention: bool = True
    precision: Literal["auto", "fp32", "int8"] = "auto"
    halving_minutes: float = 4.0
    trial_steps: tuple[int, ...] = ()

    kind: ClassVar[str] = "head"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    produces: ClassVar[frozenset[str]] = frozenset({"student"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        problems = []
        for name, value, least, most in (
            ("width", self.width, 2, _WIDEST),
            ("blocks", self.blocks, 1, _DEEPEST),
            ("distil", self._distil, 1, self.width - 1),
        ):
            if not least <= value <= most:
                problems.append(f"head.{name} = {value}: give {least} to {max(least, most)}")
        if self.precision != "auto" and self.precision not in plan_context.target.precisions:
            problems.append(f"target {plan_context.target.name} does not run {self.precision}: set head.precision")
        if not 0 <= self.halving_minutes < float("inf") or any(steps < 1 for steps in self.trial_steps):
            problems.append(f"head.trial_minutes = {self.halving_minutes}: give 0 for no trial, or minutes")
        if self.halving_minutes and not plan_context.has_train:
            problems.append("head.trial_minutes needs training data: give --data, or set it to 0")
        return tuple(problems)

    @property
    def _distil(self) -> int:
        return max(1, self.width // 4) if self.distil is None else self.distil

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor.models.common.head import ImdnHead
        from compressor.search.swap import swap

        new = ImdnHead(self.width, self.blocks, self._distil, self.attention)
        head = None if self.style == "plain" else new
        precision = self.precision
        if precision == "auto":
            precision = "int8" if "int8" in context.target.precisions else "fp32"
        swapped = swap(
            head, precision, self.halving_minutes, self.trial_steps, artifact.teacher, artifact.result, context
        )
        return Result(replace(artifact, student=swapped.student), swapped.metrics, swapped.warnings, swapped.pinned)
