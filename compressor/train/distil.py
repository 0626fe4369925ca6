"""From a teacher and a student to the student trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec, Json, Progress, Session
from compressor.export import export, save
from compressor.losses import Objective
from compressor.train import workers
from compressor.train.learner import Learner
from compressor.train.loop import Feed, autocast, narrow, step_seconds, train
from compressor.train.patches import Patches
from compressor.train.optimizer_config import OptimizerConfig
from compressor.train.samples import Samples

__all__ = ["Budget", "Taught", "answering", "distil", "live", "trial_seconds"]


_OPSET = 21
_EXAMPLE = 64
"""Pixels a side, where the exported graph takes any number of them."""


class Taught(Protocol):
    """Training samples with a teacher's answers: `compressor.train.soft_targets.SoftTargets`, or patches of images."""

    @property
    def samples(self) -> Samples | Patches: ...

    def batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and the teacher's logits N x K."""
        ...


@dataclass(frozen=True)
class Budget:
    """How long to train: so many steps, or else the lesser of the epochs and the minutes, as far as they are given."""

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None


def distil(
    student: nn.Module,
    taught: Taught,
    objective: Objective,
    optimizer_config: OptimizerConfig,
    budget: Budget,
    *,
    teacher: nn.Module | None = None,
    seed: int,
    device: str,
    checkpoint: Path | None,
    remember: Callable[[Callable[[], Json]], Json],
    progress: Progress,
    what: str = "distil",
) -> tuple[int, list[dict[str, Json]]]:
    """Train ``student`` in place. Returns the steps taken and the curve.

    ``teacher`` is wanted where the objective reads feature maps. ``remember`` keeps the step count that
    minutes became, so that a training that is taken up again has the same one. The batch of a step
    depends on seed and step alone, whatever the number of processes that share it.
    """
    optimizer_config = replace(optimizer_config, batch=min(optimizer_config.batch, len(taught.samples)))
    feed, epoch = _feed(taught, optimizer_config, seed)
    with torch.random.fork_rng(devices=[]):  # of the losses' learned parts
        torch.manual_seed(seed)
        learner = Learner(student, objective, taught.samples.input, teacher).train()
    steps = budget.steps
    if steps is None:
        lengths = [] if budget.epochs is None else [math.ceil(budget.epochs * epoch)]
        if (minutes := budget.minutes) is not None:

            def fitting() -> int:
                return max(1, int(60 * minutes / step_seconds(learner, feed, optimizer_config, device)))

            lengths.append(workers.broadcast(lambda: remember(fitting), device))
        steps = min(lengths)
    with torch.random.fork_rng():
        curve = train(
            learner, feed, steps, optimizer_config, seed=seed, device=device, epoch=epoch, checkpoint=checkpoint,
            progress=progress, what=what,
        )  # fmt: skip
    student.cpu().eval()
    return steps, curve


def trial_seconds(student: nn.Module, taught: Taught, objective: Objective, optimizer_config: OptimizerConfig, device: str) -> float:
    """What a step of `distil` takes ``student``, which is left as it is."""
    feed, _ = _feed(taught, replace(optimizer_config, batch=min(optimizer_config.batch, len(taught.samples))), 0)
    return step_seconds(Learner(student, objective, taught.samples.input).train(), feed, optimizer_config, device)


def _feed(taught: Taught, optimizer_config: OptimizerConfig, seed: int) -> tuple[Feed, int]:
    """The batch of each step, and how many steps an epoch has."""
    samples = taught.samples
    epoch = max(1, len(samples) // optimizer_config.batch)

    @lru_cache(maxsize=1)
    def order(number: int) -> NDArray[np.int64]:
        return np.random.default_rng([seed, 1, number]).permutation(len(samples))

    def feed(step: int) -> tuple[Tensor, Tensor, Tensor]:
        number, place = divmod(step, epoch)
        rows = order(number)[place * optimizer_config.batch : (place + 1) * optimizer_config.batch]
        return taught.batch(rows[workers.rank() :: workers.world()], number)

    return feed, epoch


def answering(teacher: nn.Module, precision: str, device: str, *, any_size: bool = False) -> Callable[[Tensor], Tensor]:
    """The teacher's logits for a batch, in the precision that students train in; or, ``any_size``, the images it makes.

    In float32 on a CPU ONNX Runtime answers: its kernels are about twice as fast as torch's there.
    """
    place = workers.accelerator(device).device
    teacher = teacher.to(place).eval()
    if place.type == "cpu" and not narrow(precision, place):
        return _runtime(teacher, any_size)

    def answer(images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(precision, place):
            logits: Tensor = teacher(images.to(place))
        return logits.float().cpu()

    return answer


def _runtime(teacher: nn.Module, any_size: bool) -> Callable[[Tensor], Tensor]:
    @cache
    def session(input: InputSpec) -> Session:
        with TemporaryDirectory() as folder:
            graph = export(teacher, input, _OPSET, any_size=any_size)
            path = save(graph, Path(folder) / "teacher.onnx", "fp32").path
            opened: Session = catalog.find("backends", "onnxruntime")().open(path, threads=torch.get_num_threads())
        return opened

    def answer(images: Tensor) -> Tensor:
        size = (_EXAMPLE, _EXAMPLE) if any_size else images.shape[2:]
        return torch.from_numpy(session(InputSpec(images.shape[1], *size))(images.numpy()))

    return answer


@dataclass(frozen=True)
class live:  # noqa: N801 - it stands where SoftTargets would
    """Samples without stored answers: the teacher is asked in every step."""

    samples: Samples
    _drawn: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        if epoch not in self._drawn:
            self._drawn.clear()
            self._drawn[epoch] = self.samples.drawn(epoch)
        images, labels = self.samples.batch(rows, self._drawn[epoch])
        return images, labels, torch.zeros(len(rows), self.samples.classes)
