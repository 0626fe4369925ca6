"""A student, searched without training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compressor.core import Artifact, Context, Model, PlanContext, Result, TorchSource, UsageError, image_signature

__all__ = ["Search"]


@dataclass(frozen=True)
class Search:
    """Evolve students within the budgets, score them untrained, measure the best whole, take the best that fits.

    ``space`` is a file of ``models/``; ``auto`` the teacher's own family where it is one, else
    mobilenetv2. ``head`` gives its members IMDN-style heads alone, or (``any``) both kinds; what a head is worth
    no score was checked on, so where there is a choice give ``trial_minutes``. ``budget`` is written as on the
    command line, whose budgets come before the profile's, which may be ``yielding``: where no student obeys, its
    shares are raised by half until one does. Latency is that of the form that is deployed, at batch 1
    (``precision = "auto"``: INT8 where the target runs it); of INT8, bytes are counted with so many ``bits`` a
    weight, which `quantize` may store fewer of.
    ``evaluations`` students are scored on one batch of ``samples`` images, each with ``inits`` random
    initialisations; ``population`` of them breed; ``finalists`` are measured. Where ``trial_minutes`` are given
    the finalists are distilled for so long, by successive halving, and ranked by that (``trial_steps``: a
    round's steps, as an earlier run found them). They are then the best of different depths, and half of
    them, and of the evaluations, are of students whose weights can all be cut from the teacher's.
    ``processes`` = 0 takes one for each core. ``table`` is the latency table of an earlier run.
    """

    space: str = "auto"
    head: Literal["plain", "imdn", "any"] = "plain"
    budget: tuple[str, ...] = ("macs=25%",)
    soft_budget: bool = False
    evaluations: int = 400
    population: int = 48
    finalists: int = 4
    samples: int = 64
    inits: int = 2
    precision: Literal["auto", "fp32", "int8"] = "auto"
    bits: float = 8.0
    halving_minutes: float = 0.0
    trial_steps: tuple[int, ...] = ()
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

        problems = []
        if self.space != "auto" and self.space not in (spaces := catalog.names("models")):
            problems.append(f"search.space = {self.space!r} is not known: take auto or one of {', '.join(spaces)}")
        if not self.budget:
            problems.append("search.budget is empty: give --budget latency=25%, params=200k, macs=20M or bytes=500k")
        for text in self.budget:
            Budget.parse(text)
        if min(self.evaluations, self.population, self.finalists, self.inits) < 1 or self.samples < 2:
            problems.append("search has a setting too low: give one or more of each, and two samples")
        if not 0 <= self.halving_minutes < float("inf") or any(steps < 1 for steps in self.trial_steps):
            problems.append(f"search.trial_minutes = {self.halving_minutes}: give 0 for no trials, or minutes")
        if self.head != "plain" and plan_context.targets == "images":
            problems.append(f"search.head = {self.head} is of classifiers: leave it plain for super-resolution")
        if self.halving_minutes and plan_context.targets == "images":
            problems.append("search.trial_minutes are judged by top-1: set it to 0 for super-resolution")
        if self.halving_minutes and not plan_context.has_train:
            problems.append("search.trial_minutes needs training data: give --data, or set it to 0")
        if not 1 <= self.bits <= 8:
            problems.append(f"search.bits = {self.bits}: give 1 to 8")
        if self.precision != "auto" and self.precision not in plan_context.target.precisions:
            problems.append(f"target {plan_context.target.name} does not run {self.precision}: set search.precision")
        return tuple(problems)

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor import catalog
        from compressor.frontend import save_weights
        from compressor.models.common.headed import settings
        from compressor.models.common.space import default_space
        from compressor.scores.common.probe import untrained
        from compressor.search.student import search

        teacher, space = artifact.teacher, self.space
        if space == "auto":
            space = teacher.family if teacher.family in catalog.names("models") else default_space(context.task.kind)
        if catalog.find("models", space).task != context.task.kind:
            raise UsageError(
                f"search.space = {space} is not for {context.task.kind}, which the teacher does",
                hint=f"set search.space = {default_space(context.task.kind)}",
            )
        precision = self.precision
        if precision == "auto":
            precision = "int8" if "int8" in context.target.precisions else "fp32"
        found = search(self, space, precision, teacher, context)
        factor = context.task.facts.get("upscale_factor")
        signature, sizes = image_signature(teacher.input, teacher.outputs, upscale_factor=factor)
        weights = context.workdir / "student.safetensors"
        student = Model(
            source=TorchSource(space, settings(found.best.architecture), weights),
            graph=None,
            sha256=save_weights(untrained(found.best.architecture, context.seed).state_dict(), weights),
            params=found.best.params,
            macs=found.best.macs,
            signature=signature,
            sizes=sizes,
            normalization=teacher.normalization,
        )
        return Result(replace(artifact, student=student), found.metrics, found.warnings, found.pinned)
