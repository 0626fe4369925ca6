"""What stored answers and inherited weights are worth, on one student of ResNet-56's family.

    python benchmarks/distillation.py resnet56_cifar10.pt cifar10 [--images N] [--epochs N] [--minutes M ...]

Two tables. Stored answers against a teacher that is asked in every step: seconds a step, interleaved, and the
accuracy that the same number of steps ends with. First weights from the teacher against random ones, for equal
steps, which are equal minutes, the network being the same. Judged in float on all test images.
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

from compressor.core import Data, InputSpec
from compressor.data import Prepared, load_data
from compressor.frontend import ingest
from compressor.losses import objective
from compressor.models.cifar_resnet import CifarResNet
from compressor.passes.distill import Distill
from compressor.preprocessing import parse_normalization
from compressor.scores._probe import untrained
from compressor.train.augmentation import Augmentation
from compressor.train.distil import Budget, Taught, answering, distil, trial_seconds
from compressor.train.inherit import inherit
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets

INPUT = InputSpec(3, 32, 32)
STUDENTS = {
    "ResNet-20": CifarResNet((3, 3, 3)),
    "ResNet-14": CifarResNet((2, 2, 2)),
    "ResNet-8": CifarResNet((1, 1, 1)),
    "ResNet-8, widths 16, 48, 112": CifarResNet((1, 1, 1), (16, 48, 112)),
}
LESSONS = Distill(warmup=0.15)
ROUNDS = 12


@dataclass(frozen=True)
class WeightQuantSpec:
    """The rival: the teacher runs in every step, on images that are augmented anew in every epoch."""

    samples: Samples
    answer: Callable[[Tensor], Tensor]

    def batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = self.samples.batch(rows, self.samples.drawn(epoch))
        return images, labels, self.answer(images)


def quiet(message: str, done: int, total: int) -> None:
    return


def learn(student: nn.Module, taught: Taught, steps: int, seed: int) -> nn.Module:
    distil(
        student, taught, objective(LESSONS.losses), LESSONS.optimizer_config, Budget(steps=steps), seed=seed, device="cpu",
        checkpoint=None, remember=lambda compute: compute(), progress=quiet,
    )  # fmt: skip
    return student


def accuracy(network: nn.Module, data: Data) -> float:
    right = 0
    with torch.inference_mode():
        for images, labels in data.evaluate.batches(500):
            right += int((network(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
    return right / len(data.evaluate)


def seconds(student: nn.Module, rivals: list[Taught]) -> list[list[float]]:
    """A step with each rival, in turn."""
    taken: list[list[float]] = [[] for _ in rivals]
    for _ in range(ROUNDS):
        for kept, taught in zip(taken, rivals, strict=True):
            kept.append(trial_seconds(student, taught, objective(LESSONS.losses), LESSONS.optimizer_config, "cpu"))
    return taken


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
    data = load_data(options.data).prepare(INPUT, scaling)
    assert isinstance(data, Prepared)
    assert data.train is not None
    split = data.train.take(data.train.raw.sample(options.images))
    samples = Samples(split, INPUT, scaling, 10, Augmentation(0.125, True), 0)
    teacher = ingest(options.teacher).build()
    answer = answering(teacher, "auto", "cpu")
    stored = SoftTargets(samples, options.epochs, Path(mkdtemp()), "teacher")
    begun = perf_counter()
    stored.prepare(answer, quiet)
    once = perf_counter() - begun
    steps = options.epochs * (options.images // LESSONS.batch)
    threads = torch.get_num_threads()
    print(
        f"{options.images:,} images, {steps} steps of {LESSONS.batch}, {threads} thread(s); "
        f"all answers once: {once:.0f} s\n"
    )
    print(
        "| student | stored, s a step | asked, s a step | ratio (of medians; range of rounds) "
        "| stored, top1 | asked, top1 |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    rivals: list[Taught] = [stored, WeightQuantSpec(samples, answer)]
    for name, architecture in () if options.only == "inherited" else STUDENTS.items():
        quick, slow = seconds(untrained(architecture, 0), rivals)
        ratios = [b / a for a, b in zip(quick, slow, strict=True)]
        reached = [
            [accuracy(learn(untrained(architecture, seed), taught, steps, seed), data) for seed in range(options.seeds)]
            for taught in rivals
        ]
        told = [", ".join(f"{each:.2%}" for each in row) for row in reached]
        print(
            f"| {name} | {median(quick):.3f} | {median(slow):.3f} "
            f"| {median(slow) / median(quick):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {told[0]} | {told[1]} |",
            flush=True,
        )
    if options.only == "stored":
        return
    print(
        "\n| student | minutes | steps | inherited | from the teacher, top1 | random, top1 |\n|---|---|---|---|---|---|"
    )
    for name, architecture in ((n, STUDENTS[n]) for n in ("ResNet-20", "ResNet-8")):
        each = trial_seconds(untrained(architecture, 0), stored, objective(LESSONS.losses), LESSONS.optimizer_config, "cpu")
        for minutes in options.minutes:
            length, shares = max(1, int(60 * minutes / each)), []
            reached = [[], []]
            for seed in range(options.seeds):
                ours, other = untrained(architecture, seed), untrained(architecture, seed)
                shares.append(inherit(ours, teacher))
                reached[0].append(accuracy(learn(ours, stored, length, seed), data))
                reached[1].append(accuracy(learn(other, stored, length, seed), data))
            told = [", ".join(f"{each:.2%}" for each in row) for row in reached]
            print(f"| {name} | {minutes:g} | {length} | {shares[0]:.0%} | {told[0]} | {told[1]} |", flush=True)


if __name__ == "__main__":
    main()
