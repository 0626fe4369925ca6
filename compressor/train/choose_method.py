"""The choice among methods of distillation by short trainings."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from compressor.core import Context, ImageSplit, Json
from compressor.losses import objective
from compressor.train import workers
from compressor.train.distill_config import DistillConfig
from compressor.train.fit import fit_step_seconds
from compressor.train.fit_with_checkpoints import fit_with_checkpoints
from compressor.train.halving import halve, halving_samples, rounds_of, steps_within, top1
from compressor.train.methods import METHODS
from compressor.train.teacher import PreparedTeacher

__all__ = ["choose_method"]


def choose_method(
    settings: DistillConfig,
    make_student: Callable[[PreparedTeacher], nn.Module],
    prepare: Callable[[DistillConfig, ImageSplit], PreparedTeacher],
    classes: int,
    key: Json,
    context: Context,
) -> tuple[str, dict[str, Json]]:
    """Return the method whose student is best after short trainings, and what the report tells of them.

    Every method has the same first weights and as many steps; the worse half stops after each round
    (`compressor.train.halving`), and all rounds take ``settings.method_minutes``. Accuracy is that on training samples
    that are held out here; the first of `METHODS` wins a tie. (He et al. 2021, arXiv 2109.11105, learn such a choice.)
    """
    begun = time.perf_counter()
    trials = _Trials.of(settings, make_student, prepare, classes, key, context)
    halved = halve(len(trials.names), (), trials.steps_of, trials.train_and_judge)
    chosen = trials.names[halved.order[0]]
    return chosen, {
        "chosen": chosen,
        "minutes": settings.method_minutes,
        "seconds": time.perf_counter() - begun,
        "judged_on": trials.judged.name,
        "rounds": halved.rounds(trials.names),
    }


@dataclass(frozen=True)
class _Trials:
    """A student for each method, and the samples that all learn from and are judged on."""

    names: tuple[str, ...]
    configs: tuple[DistillConfig, ...]
    students: tuple[nn.Module, ...]
    prepared: tuple[PreparedTeacher, ...]
    judged: ImageSplit
    key: Json
    minutes: float
    context: Context

    @classmethod
    def of(
        cls,
        settings: DistillConfig,
        make_student: Callable[[PreparedTeacher], nn.Module],
        prepare: Callable[[DistillConfig, ImageSplit], PreparedTeacher],
        classes: int,
        key: Json,
        context: Context,
    ) -> _Trials:
        learned, judged = halving_samples(context)
        short = dataclasses.replace(settings, minutes=None, epochs=None, steps=1, views=min(2, settings.views))
        short = dataclasses.replace(short, warmup=0.1)
        first = prepare(short.with_method(next(iter(METHODS))), learned)
        short = dataclasses.replace(short, hflip=first.pinned["hflip"])
        names = tuple(name for name in METHODS if short.with_method(name).suits(classes))
        configs = tuple(short.with_method(name) for name in names)
        kinds: dict[Json, PreparedTeacher] = {(short.mixup, short.cutmix): first}
        for config in configs:
            if (kind := (config.mixup, config.cutmix)) not in kinds:
                kinds[kind] = prepare(config, learned)
        prepared = tuple(kinds[config.mixup, config.cutmix] for config in configs)
        students = tuple(make_student(first) for _ in names)
        return cls(names, configs, students, prepared, judged, key, settings.method_minutes, context)

    def steps_of(self, alive: Sequence[int]) -> int:
        """Return the steps with which these methods fill one round, measured once and kept across runs."""
        key = [self.key, self.minutes, rounds_of(len(self.names)), [self.names[index] for index in alive]]
        remember = partial(self.context.memo, "method-steps", key, partial(self._fitting, tuple(alive)))
        steps: int = workers.broadcast(remember, self.context.device)
        return steps

    def _fitting(self, alive: Sequence[int]) -> int:
        return steps_within(self.minutes, len(self.names), map(self._step_seconds, alive))

    def _step_seconds(self, index: int) -> float:
        config = self.configs[index]
        terms, data = objective(config.losses), self.prepared[index].data
        return fit_step_seconds(self.students[index], data, terms, config.optimizer_config, self.context.device)

    def train_and_judge(self, index: int, number: int, steps: Sequence[int]) -> float:
        """Train a method's student for round ``number`` of ``steps``; return its top-1."""
        what = f"trying {self.names[index]}, round {number + 1} of {rounds_of(len(self.names))}"
        config = dataclasses.replace(self.configs[index], steps=steps[-1])
        key = [self.key, number, list(steps)]
        fit_with_checkpoints(config, self.students[index], self.prepared[index], key, self.context, what)
        return workers.broadcast(partial(top1, self.students[index], self.judged), self.context.device)
