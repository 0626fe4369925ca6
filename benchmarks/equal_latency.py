"""Compares the search's pick with seven random students of the same latency, all distilled with the same settings.

    compress run resnet56_cifar10.pt --data cifar10 --target host --profile search --budget latency=10% -o runs/search
    python benchmarks/equal_latency.py runs/search resnet56_cifar10.pt cifar10 [--students N] [--images N] [--epochs N]

The others are random members of the pick's space whose latency, predicted from the run's own table, is
within 5 % of the pick's. All are trained with the same settings: random first weights, the teacher's stored outputs,
0.9 KL at T = 4 and 0.1 CE, SGD with a one-cycle schedule. Accuracy is that of the float network on all test images.
Students that are in the output file already are not trained again.
"""

from __future__ import annotations

import argparse
import json
import random
import tomllib
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from compressor import catalog
from compressor.core import InputSpec, image_signature
from compressor.data import Source, load_data
from compressor.frontend import TorchSession, load_checkpoint
from compressor.losses import objective
from compressor.models.common.family import Family
from compressor.models.common.layers import count
from compressor.passes.distill import Distill
from compressor.plan import with_machine_quirks
from compressor.preprocessing import parse_normalization
from compressor.scores.common.probe import untrained
from compressor.search.latency import LatencyTable
from compressor.tasks.classification import Classification
from compressor.train.augmentation import Augmentation
from compressor.train.fit import Duration, fit
from compressor.train.predictor import make_predictor
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets

INPUT = InputSpec(3, 32, 32)
SIGNATURE, _ = image_signature(INPUT, 10)
WITHIN = 0.05


def quiet(message: str, done: int, total: int) -> None:
    return


def chosen(run: Path, wanted: int, classes: int) -> list[tuple[Family, float]]:
    """The pick first, then others of its latency, each with its latency in multiples of the reference op's."""
    plan = tomllib.loads((run / "resolved.toml").read_text())
    settings = next(p for p in plan["pass"] if p["kind"] == "search")
    report = json.loads((run / "report.json").read_text())
    metrics = next(p for p in report["passes"] if p["kind"] == "search")["metrics"]
    target = with_machine_quirks(catalog.find_target(plan["options"]["target"]))
    table = LatencyTable(target, metrics["timed_as"], Path(mkdtemp()), lambda name, key, compute: compute())
    table.read(Path(settings["table"]))
    family = catalog.find("models", metrics["space"])
    pick = family.decode(json.loads(metrics["student"]), INPUT, classes)
    (wanted_latency,) = table.predict([pick], INPUT, quiet)
    generator = random.Random(0)
    found, known = [(pick, wanted_latency)], {json.dumps(pick.encode())}
    seeds = family.seeds(INPUT, classes, target.width_multiple)
    while len(found) < wanted:
        children = []
        for _ in range(64):
            child = generator.choice(seeds)
            for _ in range(generator.randint(4, 16)):
                child = child.mutated(generator, target.width_multiple)
            # A student that costs several times the MACs would only fill the table.
            if 0.3 < count(child, INPUT).macs / count(pick, INPUT).macs < 2:
                children.append(child)
        for child, latency in zip(children, table.predict(children, INPUT, quiet), strict=True):
            key = json.dumps(child.encode())
            if abs(latency / wanted_latency - 1) <= WITHIN and key not in known and len(found) < wanted:
                known.add(key)
                found.append((child, latency))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    if not rows:
        students = chosen(options.run, options.students, 10)
        rows = [
            {"student": json.dumps(a.encode()), "latency": latency / students[0][1], "macs": count(a, INPUT).macs,
             "params": count(a, INPUT).params, "space": options.run.name} for a, latency in students
        ]  # fmt: skip
        report = json.loads((options.run / "report.json").read_text())
        space = next(p for p in report["passes"] if p["kind"] == "search")["metrics"]["space"]
        rows = [row | {"space": space} for row in rows]
    scaling = parse_normalization("imagenet", 3)
    source = load_data(options.data)
    assert isinstance(source, Source)
    data = source.prepare(INPUT, scaling, SIGNATURE.input.name)
    assert data.train is not None
    split = data.train.take(data.train.raw.sample(options.images))
    settings = Distill()
    samples = Samples(split, INPUT, scaling, 10, Augmentation(), 0)
    teacher = load_checkpoint(options.teacher).build()
    targets = SoftTargets(samples, 4, Path(mkdtemp()), "teacher")
    targets.prepare(make_predictor(teacher, "auto", "cpu", Path(mkdtemp())), quiet)
    for row in rows:
        if "accuracy" in row:
            continue
        student = untrained(catalog.find("models", row["space"]).decode(json.loads(row["student"]), INPUT, 10), 0)
        fit(
            student, targets, objective(settings.losses), settings.optimizer_config, Duration(epochs=options.epochs),
            seed=0, device="cpu", checkpoint=None, remember=lambda compute: compute(), progress=quiet,
        )  # fmt: skip
        metric, _ = Classification().evaluate(TorchSession(student, SIGNATURE), data.evaluate, 500, quiet)
        row["accuracy"] = metric.value
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{row['student']}: {row['accuracy']:.4f}", flush=True)
    ranked = sorted((row["accuracy"] for row in rows), reverse=True)
    print("| student | latency / pick's | MACs | parameters | top1 |\n|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: -row["accuracy"]):
        name = f"**{row['student']}** (the pick)" if row is rows[0] else row["student"]
        print(f"| {name} | {row['latency']:.2f} | {row['macs']:,} | {row['params']:,} | {row['accuracy']:.2%} |")
    print(f"\nThe pick is number {1 + ranked.index(rows[0]['accuracy'])} of {len(rows)}.")
    print(f"Spread of the others: {np.ptp([row['accuracy'] for row in rows[1:]]):.2%}")


if __name__ == "__main__":
    main()
