"""Successive halving: short distillations of several students, of which the worse half stops after each round."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import nn

from compressor.core import Context, ImageSplit, Json, Model, VerificationFailed
from compressor.losses import objective
from compressor.models.common.family import Architecture
from compressor.models.common.headed import label
from compressor.scores.common.probe import untrained
from compressor.train.distill_config import DistillConfig
from compressor.train.fit import fit_step_seconds
from compressor.train.inherit import inherit
from compressor.train.student import fit_with_checkpoints
from compressor.train.teacher import PreparedTeacher, prepare_teacher

__all__ = ["HalvingResult", "successive_halving"]

_LEARNED_FROM, _JUDGED_ON = 10_000, 2_000
"""Training samples, at most, that are learned from and judged on. Neither are samples of the evaluation half."""
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
    """Distil students side by side, drop the worse half, go on with the others (Jamieson & Talwalkar 2016, fig. 1).

    Every round takes an equal share of ``minutes``, and every student of a round takes as many steps; ``steps`` are
    those of the first rounds, where an earlier run found them. Students are compared by their top-1 on training
    samples that are held out here. One that is dropped keeps its place behind those that go on.
    """
    begun = time.perf_counter()
    halving = _Halving.of(students, minutes, teacher, context)
    alive, dropped = list(range(len(students))), list[int]()
    taken, rounds = list[int](), list[dict[str, Json]]()
    for number in range(halving.rounds):
        taken.append(steps[number] if number < len(steps) else halving.steps_of(alive))
        reached = {index: halving.train_and_judge(index, number, taken) for index in alive}
        alive.sort(key=lambda index: (-reached[index], index))
        top1 = {halving.names[index]: reached[index] for index in alive}
        rounds.append({"steps": taken[-1], "top1": top1})
        half = (len(alive) + 1) // 2
        alive, dropped = alive[:half], alive[half:] + dropped
    order = (*alive, *dropped)
    report: dict[str, Json] = {
        "minutes": minutes,
        "seconds": time.perf_counter() - begun,
        "learned_from": halving.prepared.data.samples.split.name,
        "judged_on": halving.judged.name,
        "rounds": rounds,
        "changed": order[0] != 0,
        "before": halving.names[0],
        "after": halving.names[order[0]],
    }
    return HalvingResult(order, tuple(taken), report)


@dataclass(frozen=True)
class _Halving:
    """The students' networks, which training changes, and the samples that they learn from and are judged on."""

    names: tuple[str, ...]
    networks: tuple[nn.Module, ...]
    prepared: PreparedTeacher
    judged: ImageSplit
    minutes: float
    teacher: Model
    context: Context

    @classmethod
    def of(cls, students: Sequence[Architecture], minutes: float, teacher: Model, context: Context) -> _Halving:
        assert context.data is not None
        assert context.data.train is not None
        learned, judged = _halves(cast(ImageSplit, context.data.train), context.seed)
        prepared = prepare_teacher(_CONFIG, teacher, context, learned)
        networks = tuple(_initial(each, prepared.network, context.seed) for each in students)
        names = tuple(map(label, students))
        return cls(names, networks, prepared, judged, minutes, teacher, context)

    @property
    def rounds(self) -> int:
        """The number of halvings that leave one student."""
        return max(1, (len(self.names) - 1).bit_length())

    def steps_of(self, alive: Sequence[int]) -> int:
        """Return the steps with which these students fill one round, measured once and kept across runs."""
        key = [self.minutes, self.rounds, sorted(self.names[i] for i in alive), self.teacher.sha256, self.context.seed]
        steps: int = self.context.memo("halving-steps", key, partial(self._fitting, tuple(alive)))
        return steps

    def _fitting(self, alive: Sequence[int]) -> int:
        return max(1, int(60 * self.minutes / self.rounds / sum(map(self._step_seconds, alive))))

    def _step_seconds(self, index: int) -> float:
        terms, config = objective(_CONFIG.losses), _CONFIG.optimizer_config
        return fit_step_seconds(self.networks[index], self.prepared.data, terms, config, self.context.device)

    def train_and_judge(self, index: int, number: int, steps: Sequence[int]) -> float:
        """Train a student for round ``number`` of ``steps``; return its top-1, 0 where its training diverged."""
        key = [self.names[index], number, list(steps), self.teacher.sha256]
        what = f"successive halving, round {number + 1} of {self.rounds}"
        config = replace(_CONFIG, steps=steps[-1])
        try:
            fit_with_checkpoints(config, self.networks[index], self.prepared, key, self.context, what)
        except VerificationFailed:
            return 0.0
        return _top1(self.networks[index], self.judged)


def _halves(split: ImageSplit, seed: int) -> tuple[ImageSplit, ImageSplit]:
    """Draw the samples to learn from, and those to judge on."""
    shuffled = np.random.default_rng([seed, 4]).permutation(len(split))
    judged = min(_JUDGED_ON, max(1, len(split) // 5))
    learned = split.take(np.sort(shuffled[judged : judged + _LEARNED_FROM]))
    return cast(ImageSplit, learned), cast(ImageSplit, split.take(np.sort(shuffled[:judged])))


def _initial(architecture: Architecture, teacher: nn.Module | None, seed: int) -> nn.Module:
    """Make a student with weights cut from the teacher's, where there is a torch network of it."""
    network = untrained(architecture, seed)
    if teacher is not None:
        inherit(network, teacher)
    return network


def _top1(network: nn.Module, split: ImageSplit) -> float:
    network.eval()
    right = 0
    with torch.inference_mode():
        for feeds, labels in split.batches(250):
            (images,) = feeds.values()
            right += int((network(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
    return right / len(split)
