"""An IMDN-style head against the plain one: the same body, and a plain student of the same latency.

    python benchmarks/heads.py resnet56_cifar10.pt cifar10 [--images N] [--epochs N] [--seeds N]

A ResNet-8 body with an `ImdnHead`, with and without attention; the same body with its plain head; and, of plain
ResNets with wider or deeper last stages, the one whose latency is nearest to the headed student's. Latencies are
those of the whole networks in INT8 on this machine, interleaved. All are trained with the same settings: random first
weights, the teacher's stored outputs, 0.9 KL at T = 4 and 0.1 CE, SGD with a one-cycle schedule. Accuracy is measured
on all test images, in float and in INT8 (ptq, 300 training images) on the runtime's kernels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from tempfile import mkdtemp

import numpy as np
import torch

from compressor import catalog
from compressor.core import InputSpec, Session, Target, image_signature
from compressor.data import Prepared, Source, load_data
from compressor.frontend import TorchSession, load_checkpoint
from compressor.losses import objective
from compressor.lowering.export import export
from compressor.lowering.placement import Placement
from compressor.lowering.save import save
from compressor.models.cifar_resnet import CifarResNet
from compressor.models.common.family import Architecture
from compressor.models.common.head import ImdnHead
from compressor.models.common.headed import Headed
from compressor.models.common.layers import count
from compressor.passes.distill import Distill
from compressor.plan import with_machine_quirks
from compressor.preprocessing import parse_normalization
from compressor.quant.ranges import activation_ranges
from compressor.scores.common.probe import untrained
from compressor.search.deployed import deployed_graph
from compressor.search.latency import LatencyTable
from compressor.tasks.classification import Classification
from compressor.train.augmentation import Augmentation
from compressor.train.fit import Duration, fit
from compressor.train.predictor import make_predictor
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets

INPUT = InputSpec(3, 32, 32)
SIGNATURE, SIZES = image_signature(INPUT, 10)
BODY = CifarResNet((1, 1, 1))
HEAD = ImdnHead()
ROUNDS = 5
SETTINGS = Distill(warmup=0.15)


def quiet(message: str, done: int, total: int) -> None:
    return


def plain_rivals() -> list[Architecture]:
    """The body and what plain heads could spend a head's time on instead: channels or a block, late or early."""
    wider = [(16, 32, last) for last in (64, 80, 96, 112, 128)] + [(16, 48, 64)]
    return [*(CifarResNet((1, 1, 1), widths) for widths in wider), CifarResNet((1, 1, 2)), CifarResNet((1, 2, 1))]


def latencies(students: list[Architecture], target: Target) -> list[float]:
    """The latencies of whole networks in INT8, in multiples of the reference op's: the medians of several tables."""
    graphs = {json.dumps(s.encode()): deployed_graph(s, INPUT, target, "int8", 0) for s in students}
    rounds = []
    for _ in range(ROUNDS):
        table = LatencyTable(target, "int8", Path(mkdtemp()), lambda name, key, compute: compute())
        found = table.time_networks(graphs)
        rounds.append([found[name] for name in graphs])
    return [float(np.median(row)) for row in zip(*rounds, strict=True)]


def compared(target: Target) -> dict[str, tuple[Architecture, float]]:
    """The students by name, each with its latency as a multiple of the headed one's."""
    headed = Headed(BODY, HEAD)
    bare = Headed(BODY, ImdnHead(HEAD.width, HEAD.blocks, HEAD.distil, attention=False))
    rivals = plain_rivals()
    found = latencies([headed, bare, *rivals], target)
    own, times = found[0], dict(zip(rivals, found[2:], strict=True))
    # Of those within 3 %, the one with the most multiplications: the plain head's best use of the time.
    near = [rival for rival in rivals if abs(times[rival] / own - 1) <= 0.03]
    near = near or [min(rivals, key=lambda rival: abs(times[rival] / own - 1))]
    equal = max(near, key=lambda rival: count(rival, INPUT).macs)
    return {
        "the body, plain head": (BODY, times[BODY] / own),
        "IMDN-style head": (headed, 1.0),
        "IMDN-style head, no attention": (bare, found[1] / own),
        "plain head at equal latency": (equal, times[equal] / own),
    }


def accuracy(session: Session, data: Prepared) -> float:
    metric, _ = Classification().evaluate(session, data.evaluate, 500, quiet)
    return metric.value


def int8_accuracy(network: torch.nn.Module, data: Prepared, target: Target) -> float:
    """Top-1 of the network after post-training INT8, on the runtime."""
    assert data.train is not None
    backend = catalog.find("backends", target.backend)()
    graph = export(network, SIGNATURE, SIZES, target.opset)
    placement = Placement(graph, backend.rules(target))
    drawn = np.sort(np.random.default_rng(0).choice(len(data.train), 300, replace=False))
    batches = [feeds for feeds, _ in data.train.batches(10, drawn)]
    placement.apply(activation_ranges(graph, placement.tensors, batches, "minmax", quiet))
    saved = save(graph, Path(mkdtemp()) / "model.onnx", "int8")
    return accuracy(backend.open(saved.path, threads=1), data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    teacher = load_checkpoint(options.teacher).build()
    target = with_machine_quirks(catalog.find_target("host"))
    students = compared(target)
    for name, (student, share) in students.items():
        print(f"{name}: {json.dumps(student.encode())}, {share:.2f}", flush=True)

    scaling = parse_normalization("imagenet", 3)
    source = load_data(options.data)
    assert isinstance(source, Source)
    data = source.prepare(INPUT, scaling, SIGNATURE.input.name)
    assert data.train is not None
    split = data.train.take(data.train.raw.sample(options.images))
    samples = Samples(split, INPUT, scaling, 10, Augmentation(), 0)
    targets = SoftTargets(samples, options.views, Path(mkdtemp()), "teacher")
    targets.prepare(make_predictor(teacher, "auto", "cpu", Path(mkdtemp())), quiet)
    print("\n| student | encoding | parameters | MACs | latency | top1, float | top1, INT8 |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, (architecture, share) in students.items():
        scored: list[tuple[float, float]] = []
        for seed in range(options.seeds):
            network = untrained(architecture, seed)
            fit(
                network, targets, objective(SETTINGS.losses), SETTINGS.optimizer_config,
                Duration(epochs=options.epochs), seed=seed, device="cpu", checkpoint=None,
                remember=lambda compute: compute(), progress=quiet,
            )  # fmt: skip
            in_float = accuracy(TorchSession(network, SIGNATURE), data)
            scored.append((in_float, int8_accuracy(network, data, target)))
        cost = count(architecture, INPUT)
        floats, integers = zip(*scored, strict=True)
        cells = [f"{mean(each):.2%} ({', '.join(f'{one:.2%}' for one in each)})" for each in (floats, integers)]
        print(
            f"| {name} | `{json.dumps(architecture.encode())}` | {cost.params:,} | {cost.macs:,} | {share:.2f} "
            f"| {cells[0]} | {cells[1]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
