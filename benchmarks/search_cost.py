"""What a search costs, and how well it knows latencies before it measures.

    python benchmarks/search_cost.py DATA [--teacher resnet56_cifar10.pt] [--input 3x224x224] [--space NAME...]

Latency: the prediction from parts against the whole network's, both in multiples of the reference op's and timed in
INT8, for random members of each family. Scoring: the minutes of 400 candidates by the default score on all cores, from
twice ``--students`` random ones, with a search's own batch. With a teacher, of 32 px, candidates a second in one
process against a literal DisWOT: teacher and student run forward and backward for each candidate, M_r and M_s from
the feature maps and from autograd's gradient of the classifier; the same candidates, batch and number of
initialisations, in turns.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path
from statistics import median
from tempfile import mkdtemp

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec
from compressor.data import Source, load_data
from compressor.frontend import load_checkpoint
from compressor.models.common.family import Family
from compressor.models.common.layers import count
from compressor.plan import with_machine_quirks
from compressor.preprocessing import parse_normalization
from compressor.scores.common.probe import Batch, gaussian, untrained
from compressor.search.batch import of_split, samples_of
from compressor.search.deployed import deployed_graph
from compressor.search.latency import LatencyTable
from compressor.search.ranking import WEIGHTS
from compressor.search.scoring import Scoring, seeds_of

CLASSES, INITS, ROUNDS, EVALUATIONS = 10, 2, 3, 400
MACS = {32: (5e6, 80e6), 224: (20e6, 600e6)}
"""Multiplications of the random members, at least and at most."""


def quiet(message: str, done: int, total: int) -> None:
    return


def random_students(space: str, wanted: int, multiple: int, input: InputSpec) -> list[Family]:
    """Random mutants of a family's seeds, neither tiny nor huge."""
    family, generator = catalog.find("models", space), random.Random(0)
    seeds = family.seeds(input, CLASSES, multiple)
    least, most = MACS[32 if input.height <= 64 else 224]
    found: list[Family] = []
    while len(found) < wanted:
        child = generator.choice(seeds)
        for _ in range(generator.randint(4, 16)):
            child = child.mutated(generator, multiple)
        if least < count(child, input).macs < most:
            found.append(child)
    return found


def literal(student: nn.Module, teacher: nn.Module, batch: Batch) -> tuple[float, float]:
    """DisWOT's M_r and M_s as the paper writes them, by autograd."""
    similarities, gradients = [], []
    for network in (teacher, student):
        kept: list[Tensor] = []
        hook = network.get_submodule("avgpool").register_forward_pre_hook(lambda m, x, kept=kept: kept.append(x[0]))
        classifier = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
        network.zero_grad()
        F.cross_entropy(network(batch.images), batch.labels).backward()  # type: ignore[no-untyped-call]
        hook.remove()
        flat = kept[0].detach().flatten(1)
        similarities.append(F.normalize(flat @ flat.T))
        assert classifier.weight.grad is not None
        gradients.append(classifier.weight.grad.clone())
    relation = -float(((similarities[0] - similarities[1]) ** 2).mean())
    width = min(g.shape[1] for g in gradients)
    grams = [F.normalize(g[:, :width].unsqueeze(2) @ g[:, :width].unsqueeze(1), dim=2) for g in gradients]
    return relation, -float(((grams[0] - grams[1]) ** 2).sum() / grams[0].shape[0] / width)


def minutes(students: list[Family], batch: Batch, input: InputSpec) -> None:
    """Print how long the scores of 400 students take on all cores."""
    scoring = Scoring(tuple(WEIGHTS), input, batch, None, seeds_of(0, INITS), len(os.sched_getaffinity(0)))
    scoring(students[:4])  # the processes start
    begun = time.perf_counter()
    scoring(students)
    taken = time.perf_counter() - begun
    print(
        f"scoring {EVALUATIONS} students, {INITS} initialisations, {len(batch.labels)} images, {scoring.processes} "
        f"processes: {EVALUATIONS * taken / len(students) / 60:.1f} minutes (from {len(students)})"
    )


def against_literal(students: list[Family], teacher: nn.Module, batch: Batch, input: InputSpec) -> None:
    torch.set_num_threads(1)
    scoring = Scoring(tuple(WEIGHTS), input, batch, None, seeds_of(0, INITS), 1)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for student in students:
            scoring.one(student)
        ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for student in students:
            for seed in seeds_of(0, INITS):
                literal(gaussian(untrained(student, seed), seed), teacher, batch)
        theirs.append(time.perf_counter() - begun)
    ratio = median(b / a for a, b in zip(ours, theirs, strict=True))
    print(
        f"one process: ours {len(students) / median(ours):.2f} candidates/s, literal DisWOT "
        f"{len(students) / median(theirs):.2f}: {ratio:.1f}x"
    )


def latencies(students: list[Family], target_name: str, input: InputSpec) -> None:
    target = with_machine_quirks(catalog.find_target(target_name))
    table = LatencyTable(target, "int8", Path(mkdtemp()), lambda name, key, compute: compute())
    predicted = table.predict(students, input, quiet)
    measured = table.time_networks(
        {str(i): deployed_graph(student, input, target, "int8", 0) for i, student in enumerate(students)}
    )
    print("| student | predicted | measured | error |\n|---|---|---|---|")
    right = 0
    for i, student in enumerate(students):
        error = predicted[i] / measured[str(i)] - 1
        right += abs(error) <= 0.15
        print(f"| {student.encode()} | {predicted[i]:.3f} | {measured[str(i)]:.3f} | {error:+.1%} |")
    print(f"\nwithin 15 %: {right} of {len(students)}")


def samples(source: str, input: InputSpec) -> Batch:
    """The batch that a search draws."""
    data = load_data(source)
    assert isinstance(data, Source)
    train = data.prepare(input, parse_normalization("imagenet", 3), "input").train
    assert train is not None
    return of_split(train, samples_of(input), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher", type=Path, default=None)
    parser.add_argument("--input", default="3x32x32")
    parser.add_argument("--space", nargs="+", default=["cifar-resnet", "mobilenetv2"])
    parser.add_argument("--target", default="host")
    parser.add_argument("--students", type=int, default=10)
    options = parser.parse_args()
    input = InputSpec(*map(int, options.input.split("x")))
    batch = samples(options.data, input)
    multiple = catalog.find_target(options.target).width_multiple
    for space in options.space:
        students = random_students(space, 2 * options.students, multiple, input)
        print(f"\n{space}\n", flush=True)
        latencies(students[: options.students], options.target, input)
        minutes(students, batch, input)
        if options.teacher is not None:
            teacher = gaussian(load_checkpoint(options.teacher).build(), 0)
            against_literal(students[: options.students], teacher, batch, input)


if __name__ == "__main__":
    main()
