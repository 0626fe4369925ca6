"""Successive halving of students: short distillations of several, of which the worse half stops after each round."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from compressor.core import Context, ImageSplit, Json, Model
from compressor.losses import objective
from compressor.models.common.family import Architecture
from compressor.models.common.headed import label
from compressor.scores.common.probe import untrained
from compressor.train.distill_config import DistillConfig
from compressor.train.fit import fit_step_seconds
from compressor.train.fit_with_checkpoints import fit_with_checkpoints
from compressor.train.halving import halve, halving_samples, rounds_of, steps_within, top1
from compressor.train.inherit import inherit
from compressor.train.teacher import PreparedTeacher, prepare_teacher

__all__ = ["HalvingResult", "successive_halving"]

_CONFIG = DistillConfig(minutes=None, steps=1, views=2, warmup=0.1)


@dataclass(frozen=True)
class HalvingResult:
    """The students in their order after all rounds."""

    order: tuple[int, ...]
    """The students' indices, the best first."""
    steps: tuple[int, ...]
    """The steps of each round."""
    report: dict[str, Json]
    """For ``report.json``: the time, the samples, and what each student reached in each round."""


def successive_halving(
    students: Sequence[Architecture], minutes: float, steps: Sequence[int], teacher: Model, context: Context
) -> HalvingResult:
    """Distil students side by side, and order them by `compressor.train.halving.halve`.

    Every round takes an equal share of ``minutes``, and every student of a round takes as many steps; ``steps`` are
    those of the first rounds, where an earlier run found them. Students are compared by their top-1 on training
    samples that are held out here.
    """
    begun = time.perf_counter()
    trials = _Trials.of(students, minutes, teacher, context)
    halved = halve(len(students), steps, trials.steps_of, trials.train_and_judge)
    report: dict[str, Json] = {
        "minutes": minutes,
        "seconds": time.perf_counter() - begun,
        "learned_from": trials.prepared.data.samples.split.name,
        "judged_on": trials.judged.name,
        "rounds": halved.rounds(trials.names),
        "changed": halved.order[0] != 0,
        "before": trials.names[0],
        "after": trials.names[halved.order[0]],
    }
    return HalvingResult(halved.order, halved.steps, report)


@dataclass(frozen=True)
class _Trials:
    """The students' networks, which training changes, and the samples that they learn from and are judged on."""

    names: tuple[str, ...]
    networks: tuple[nn.Module, ...]
    prepared: PreparedTeacher
    judged: ImageSplit
    minutes: float
    teacher: Model
    context: Context

    @classmethod
    def of(cls, students: Sequence[Architecture], minutes: float, teacher: Model, context: Context) -> _Trials:
        learned, judged = halving_samples(context)
        prepared = prepare_teacher(_CONFIG, teacher, context, learned)
        networks = tuple(_initial(each, prepared.network, context.seed) for each in students)
        return cls(tuple(map(label, students)), networks, prepared, judged, minutes, teacher, context)

    def steps_of(self, alive: Sequence[int]) -> int:
        """Return the steps with which these students fill one round, measured once and kept across runs."""
        rounds = rounds_of(len(self.names))
        key = [self.minutes, rounds, sorted(self.names[i] for i in alive), self.teacher.sha256, self.context.seed]
        steps: int = self.context.memo("halving-steps", key, partial(self._fitting, tuple(alive)))
        return steps

    def _fitting(self, alive: Sequence[int]) -> int:
        return steps_within(self.minutes, len(self.names), map(self._step_seconds, alive))

    def _step_seconds(self, index: int) -> float:
        terms, config = objective(_CONFIG.losses), _CONFIG.optimizer_config
        return fit_step_seconds(self.networks[index], self.prepared.data, terms, config, self.context.device)

    def train_and_judge(self, index: int, number: int, steps: Sequence[int]) -> float:
        """Train a student for round ``number`` of ``steps``; return its top-1."""
        key = [self.names[index], number, list(steps), self.teacher.sha256]
        what = f"successive halving, round {number + 1} of {rounds_of(len(self.names))}"
        config = replace(_CONFIG, steps=steps[-1])
        fit_with_checkpoints(config, self.networks[index], self.prepared, key, self.context, what)
        return top1(self.networks[index], self.judged)


def _initial(architecture: Architecture, teacher: nn.Module | None, seed: int) -> nn.Module:
    """Make a student with weights cut from the teacher's, where there is a torch network of it."""
    network = untrained(architecture, seed)
    if teacher is not None:
        inherit(network, teacher)
    return network
