"""The pass that searches a student."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compressor.core import Artifact, Context, Model, PlanContext, Result, TorchSource, UsageError

__all__ = ["Search"]

_DEFAULT_SPACES = ("mobilenetv2", "imdn")
"""Where the teacher is of no known family: the first of these that does the teacher's task."""
_TRIED_TOO = ("mobilenetv2", "repvgg")
"""Searched beside the teacher's own family where trials decide between them: separable, and plain convolutions."""


@dataclass(frozen=True)
class Search:
    """Evolve students within the budgets, score them untrained, measure the best whole, take the best that fits.

    ``space`` is a file of ``models/``, or several with commas between them, which share the evaluations and the
    finalists. ``auto`` is the teacher's own family or, for a teacher of none, a default one; with ``halving_minutes``
    others too, as the score orders students of one family and trials those of several.
    ``head`` gives students IMDN-style heads, or (``any``) either kind. No score was checked on heads, so use ``any``
    with ``halving_minutes``.

    ``budget`` is written as on the command line. Budgets of the command line replace the profile's. With
    ``soft_budget``, shares are raised by half until some student obeys. Latency is that of the deployed form at
    batch 1 (``precision = "auto"``: INT8 where the target runs it). For INT8, bytes are counted with ``bits`` bits a
    weight; `quantize` may store fewer.

    ``evaluations`` students are scored on one batch of ``samples`` images (0: 64, and fewer of large ones), each with
    ``inits`` random initialisations. The ``population`` best have mutants, and ``finalists`` are measured.
    ``processes`` = 0 takes one for each core. ``table`` is the latency table of an earlier run.

    With ``halving_minutes`` the finalists are distilled for so long, by successive halving, and ranked by their
    accuracy (``halving_steps``: the steps of each round that an earlier run found). Finalists are then of different
    depths. Where students of a family can have their weights cut from the teacher's, those are a share of their own,
    and the last: of one family half of the finalists and evaluations, of several one's.
    """

    space: str = "auto"
    head: Literal["plain", "imdn", "any"] = "plain"
    budget: tuple[str, ...] = ("macs=25%",)
    soft_budget: bool = False
    evaluations: int = 400
    population: int = 48
    finalists: int = 4
    samples: int = 0
    inits: int = 2
    precision: Literal["auto", "fp32", "int8"] = "auto"
    bits: float = 8.0
    halving_minutes: float = 0.0
    halving_steps: tuple[int, ...] = ()
    processes: int = 0
    table: str | None = None

    kind: ClassVar[str] = "search"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    produces: ClassVar[frozenset[str]] = frozenset({"student"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        from compressor import catalog
        from compressor.budgets import Budget

        problems, spaces = [], catalog.names("models")
        if self.space != "auto" and not set(self._named) <= set(spaces):
            problems.append(f"search.space = {self.space!r} is not known: take auto or some of {', '.join(spaces)}")
        if len(self._named) > 1 and not self.halving_minutes:
            problems.append("search.space has several families, which trials alone compare: set search.halving_minutes")
        if len(self._named) > self.finalists:
            problems.append(f"search.finalists = {self.finalists}: give one or more for each of {self.space}")
        if not self.budget:
            problems.append("search.budget is empty: give --budget latency=25%, params=200k, macs=20M or bytes=500k")
        for text in self.budget:
            Budget.parse(text)
        if min(self.evaluations, self.population, self.finalists, self.inits) < 1 or self.samples < 0:
            problems.append("search has a setting too low: give one or more of each")
        if self.samples == 1:
            problems.append("search.samples = 1: give two or more, or 0 for as many as the input's size allows")
        if self.head != "plain" and plan_context.targets == "images":
            problems.append(f"search.head = {self.head} is for classifiers: leave it plain for photographs")
        problems += self._halving_problems(plan_context)
        if not 1 <= self.bits <= 8:
            problems.append(f"search.bits = {self.bits}: give 1 to 8")
        if self.precision != "auto" and self.precision not in plan_context.target.precisions:
            problems.append(f"target {plan_context.target.name} does not run {self.precision}: set search.precision")
        return tuple(problems)

    def _halving_problems(self, plan_context: PlanContext) -> list[str]:
        if not 0 <= self.halving_minutes < math.inf or any(steps < 1 for steps in self.halving_steps):
            return [f"search.halving_minutes = {self.halving_minutes}: give minutes, or 0 for no successive halving"]
        if self.halving_minutes and not plan_context.has_train:
            return ["search.halving_minutes needs training data: give --data, or set it to 0"]
        if self.halving_minutes and plan_context.targets != "labels":
            return ["search.halving_minutes compares top-1, and the data has no labels: set it to 0"]
        return []

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor.frontend import save_weights
        from compressor.models.common.headed import family_of, settings
        from compressor.scores.common.probe import untrained
        from compressor.search.student import search
        from compressor.search.teacher import student_signature

        teacher = artifact.teacher
        families = self._families(teacher, context.task.kind)
        signature, sizes = student_signature(teacher)
        precision: str = self.precision
        if precision == "auto":
            precision = "int8" if "int8" in context.target.precisions else "fp32"
        found = search(self, families, precision, teacher, context)
        weights = context.workdir / "student.safetensors"
        student = Model(
            source=TorchSource(family_of(found.best.architecture), settings(found.best.architecture), weights),
            graph=None,
            sha256=save_weights(untrained(found.best.architecture, context.seed).state_dict(), weights),
            params=found.best.params,
            macs=found.best.macs,
            signature=signature,
            sizes=sizes,
            ranges=teacher.ranges,
            normalization=teacher.normalization,
        )
        return Result(replace(artifact, student=student), found.metrics, found.warnings, found.pinned)

    @property
    def _named(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.strip() for name in self.space.split(",")))

    def _families(self, teacher: Model, task: str) -> tuple[str, ...]:
        """Return the families to search. Raises UsageError where one that is named does not do the teacher's task."""
        from compressor import catalog

        able = [name for name in catalog.names("models") if catalog.find("models", name).task == task]
        if self.space != "auto":
            if wrong := [name for name in self._named if name not in able]:
                raise UsageError(
                    f"search.space = {', '.join(wrong)} has no students for {task}, which the teacher does",
                    hint=f"set search.space = {able[0]}" if able else "use a profile without search: --profile ptq",
                )
            return self._named
        own = "" if teacher.source is None else teacher.source.family
        first = next((name for name in (own, *_DEFAULT_SPACES) if name in able), None)
        if first is None:
            raise UsageError(
                f"no family has students for {task}, which the teacher does",
                hint="use a profile without search: --profile ptq",
            )
        others = [name for name in _TRIED_TOO if name in able and name != first] if self.halving_minutes else []
        return (first, *others[: self.finalists - 1])
