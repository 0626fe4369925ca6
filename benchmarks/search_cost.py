"""What a search costs, and how well it knows latencies before it measures.

    python benchmarks/search_cost.py resnet56_cifar10.pt cifar10 [--target host] [--students 10]

Scoring: candidates a second, one process and one thread, of the default score (all its terms) against a
literal DisWOT: teacher and student run forward and backward for each candidate, M_r and M_s from the
feature maps and from autograd's gradient of the classifier. The same candidates, batch and number of
initialisations, in turns. Latency: the prediction from parts, as a ratio to the teacher's, against
the whole network's, timed in the same rounds as the teacher.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from statistics import median
from tempfile import mkdtemp

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec, image_signature
from compressor.data import Source, load_data
from compressor.frontend import load_checkpoint
from compressor.lowering.export import export
from compressor.models.common.family import Family
from compressor.plan import with_machine_quirks
from compressor.preprocessing import parse_normalization
from compressor.scores.common.probe import Batch, View, gaussian, untrained
from compressor.search.batch import of_split
from compressor.search.deployed import deployed_graph
from compressor.search.latency import LatencyTable
from compressor.search.ranking import WEIGHTS
from compressor.search.scoring import Scoring, seeds_of, teacher_view

INPUT, CLASSES, INITS, ROUNDS = InputSpec(3, 32, 32), 10, 2, 3


def quiet(message: str, done: int, total: int) -> None:
    return


def random_students(space: str, wanted: int, multiple: int) -> list[Family]:
    """Mutants of the space's seeds, cheaper than ResNet-56."""
    from compressor.models.common.layers import count

    family, generator = catalog.find("models", space), random.Random(0)
    seeds = family.seeds(INPUT, CLASSES, multiple)
    found: list[Family] = []
    while len(found) < wanted:
        child = generator.choice(seeds)
        for _ in range(generator.randint(4, 16)):
            child = child.mutated(generator, multiple)
        if 5e6 < count(child, INPUT).macs < 80e6:
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


def throughput(students: list[Family], teacher: nn.Module, batch: Batch, view: View) -> None:
    torch.set_num_threads(1)
    scoring = Scoring(tuple(WEIGHTS), INPUT, batch, view, seeds_of(0, INITS), 1)
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
        f"scoring {len(students)} students, {INITS} initialisations, {len(batch.labels)} images, one process: "
        f"ours {len(students) / median(ours):.2f} candidates/s, literal DisWOT {len(students) / median(theirs):.2f}: "
        f"{ratio:.1f}x"
    )


def latencies(students: list[Family], teacher: nn.Module, target_name: str) -> None:
    target = with_machine_quirks(catalog.find_target(target_name))
    table = LatencyTable(target, "int8", Path(mkdtemp()), lambda name, key, compute: compute())
    graph = export(teacher.eval(), *image_signature(INPUT, CLASSES), target.opset)
    predicted = table.predict(students, INPUT, quiet)
    graphs = {str(i): deployed_graph(student, INPUT, target, "int8", 0) for i, student in enumerate(students)}
    measured = table.time_networks({"teacher": graph, **graphs})
    print("| student | predicted / teacher's | measured / teacher's | error |\n|---|---|---|---|")
    right = 0
    for i, student in enumerate(students):
        guess, truth = predicted[i] / measured["teacher"], measured[str(i)] / measured["teacher"]
        error = guess / truth - 1
        right += abs(error) <= 0.15
        print(f"| {student.encode()} | {guess:.3f} | {truth:.3f} | {error:+.1%} |")
    print(f"\nwithin 15 %: {right} of {len(students)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--target", default="host")
    parser.add_argument("--students", type=int, default=10)
    options = parser.parse_args()
    source = load_data(options.data)
    assert isinstance(source, Source)
    train = source.prepare(INPUT, parse_normalization("imagenet", 3), "input").train
    assert train is not None
    teacher = load_checkpoint(options.teacher).build()
    batch = of_split(train, 64, 0)
    for space in ("cifar-resnet", "mobilenetv2"):
        students = random_students(space, options.students, 16)
        print(f"\n{space}\n")
        latencies(students, teacher, options.target)
        view = teacher_view(teacher, batch, 0)
        assert view is not None
        throughput(students, gaussian(load_checkpoint(options.teacher).build(), 0), batch, view)


if __name__ == "__main__":
    main()
