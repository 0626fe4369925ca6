"""The gain from stored teacher outputs and from inherited weights, on students of ResNet-56's family.

    python benchmarks/distillation.py resnet56_cifar10.pt cifar10 [--images N] [--epochs N] [--minutes M ...]

Prints two tables. The first compares stored outputs with a teacher that runs in every step: seconds a step
(interleaved), and the accuracy after the same number of steps. The second compares first weights from the teacher with
random ones, for the same number of steps. Accuracy is that of the float network on all test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.core import InputSpec, image_signature
from compressor.data import Prepared, Source, load_data
from compressor.frontend import TorchSession, load_checkpoint
from compressor.losses import objective
from compressor.models.cifar_resnet import CifarResNet
from compressor.passes.distill import Distill
from compressor.preprocessing import parse_normalization
from compressor.scores.common.probe import untrained
from compressor.tasks.classification import Classification
from compressor.train.augmentation import Augmentation
from compressor.train.distillation_data import DistillationData
from compressor.train.fit import Duration, fit, fit_step_seconds
from compressor.train.inherit import inherit
from compressor.train.predictor import make_predictor
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets

INPUT = InputSpec(3, 32, 32)
SIGNATURE, _ = image_signature(INPUT, 10)
STUDENTS = {
    "ResNet-20": CifarResNet((3, 3, 3)),
    "ResNet-14": CifarResNet((2, 2, 2)),
    "ResNet-8": CifarResNet((1, 1, 1)),
    "ResNet-8, widths 16, 48, 112": CifarResNet((1, 1, 1), (16, 48, 112)),
}
SETTINGS = Distill(warmup=0.15)
ROUNDS = 12


@dataclass(frozen=True)
class LiveTeacher:
    """The alternative: the teacher runs in every step, on images that are augmented anew in every epoch."""

    samples: Samples
    predict: Callable[[Tensor], Tensor]

    def batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = self.samples.batch(rows, self.samples.drawn(epoch))
        return images, labels, self.predict(images)


def quiet(message: str, done: int, total: int) -> None:
    return


def learn(student: nn.Module, data: DistillationData, steps: int, seed: int) -> nn.Module:
    fit(
        student, data, objective(SETTINGS.losses), SETTINGS.optimizer_config, Duration(steps=steps), seed=seed,
        device="cpu", checkpoint=None, remember=lambda compute: compute(), progress=quiet,
    )  # fmt: skip
    return student


def accuracy(network: nn.Module, data: Prepared) -> float:
    metric, _ = Classification().evaluate(TorchSession(network, SIGNATURE), data.evaluate, 500, quiet)
    return metric.value


def seconds(student: nn.Module, rivals: list[DistillationData]) -> list[list[float]]:
    """The seconds of a step with each rival, timed in turn."""
    timed: list[list[float]] = [[] for _ in rivals]
    for _ in range(ROUNDS):
        for row, data in zip(timed, rivals, strict=True):
            row.append(step(student, data))
    return timed


def step(student: nn.Module, data: DistillationData) -> float:
    return fit_step_seconds(student, data, objective(SETTINGS.losses), SETTINGS.optimizer_config, "cpu")


def cells(reached: list[list[float]]) -> str:
    """Two cells of a table: the accuracies of all seeds, of the one side and of the other."""
    return " | ".join(", ".join(f"{each:.2%}" for each in row) for row in reached)


def compare_stored(stored: SoftTargets, live: LiveTeacher, data: Prepared, steps: int, seeds: int) -> None:
    """Print the first table."""
    print(
        "| student | stored, s a step | live, s a step | ratio (of medians; range of rounds) "
        "| stored, top1 | live, top1 |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    rivals: list[DistillationData] = [stored, live]
    for name, architecture in STUDENTS.items():
        quick, slow = seconds(untrained(architecture, 0), rivals)
        ratios = [b / a for a, b in zip(quick, slow, strict=True)]
        reached = [
            [accuracy(learn(untrained(architecture, seed), rival, steps, seed), data) for seed in range(seeds)]
            for rival in rivals
        ]
        print(
            f"| {name} | {median(quick):.3f} | {median(slow):.3f} "
            f"| {median(slow) / median(quick):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {cells(reached)} |",
            flush=True,
        )


def compare_inherited(
    stored: SoftTargets, teacher: nn.Module, data: Prepared, minutes: list[float], seeds: int
) -> None:
    """Print the second table."""
    print(
        "\n| student | minutes | steps | inherited | from the teacher, top1 | random, top1 |\n|---|---|---|---|---|---|"
    )
    for name in ("ResNet-20", "ResNet-8"):
        architecture = STUDENTS[name]
        each = step(untrained(architecture, 0), stored)
        for limit in minutes:
            steps, shares = max(1, int(60 * limit / each)), []
            reached: list[list[float]] = [[], []]
            for seed in range(seeds):
                warm, cold = untrained(architecture, seed), untrained(architecture, seed)
                shares.append(inherit(warm, teacher))
                reached[0].append(accuracy(learn(warm, stored, steps, seed), data))
                reached[1].append(accuracy(learn(cold, stored, steps, seed), data))
            print(f"| {name} | {limit:g} | {steps} | {shares[0]:.0%} | {cells(reached)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, nargs="*", default=[0.5, 2.0])
    parser.add_argument("--only", choices=("stored", "inherited"))
    options = parser.parse_args()
    scaling = parse_normalization("imagenet", 3)
    source = load_data(options.data)
    assert isinstance(source, Source)
    data = source.prepare(INPUT, scaling, SIGNATURE.input.name)
    assert data.train is not None
    split = data.train.take(data.train.raw.sample(options.images))
    samples = Samples(split, INPUT, scaling, 10, Augmentation(0.125, True), 0)
    teacher = load_checkpoint(options.teacher).build()
    predict = make_predictor(teacher, "auto", "cpu", Path(mkdtemp()))
    stored = SoftTargets(samples, options.epochs, Path(mkdtemp()), "teacher")
    begun = perf_counter()
    stored.prepare(predict, quiet)
    once = perf_counter() - begun
    steps = options.epochs * (options.images // SETTINGS.batch)
    threads = torch.get_num_threads()
    print(
        f"{options.images:,} images, {steps} steps of {SETTINGS.batch}, {threads} thread(s); "
        f"all outputs once: {once:.0f} s\n"
    )
    if options.only != "inherited":
        compare_stored(stored, LiveTeacher(samples, predict), data, steps, options.seeds)
    if options.only != "stored":
        compare_inherited(stored, teacher, data, options.minutes, options.seeds)


if __name__ == "__main__":
    main()
