"""Compares the search's pick with other students of the same latency, all distilled alike.

    compress run resnet56_cifar10.pt --data cifar10 --profile search --budget latency=10% \\
        --set search.space=cifar-resnet --set search.halving_minutes=4 -o runs/search
    python benchmarks/equal_latency.py runs/search resnet56_cifar10.pt cifar10 -o runs/search.json

The pick is what successive halving chose; what the score alone would have taken is compared too. The others are random
members of the space whose latency, predicted from the run's own table, is within 5 % of the pick's. All are trained
with the settings of `distill`: first weights cut from the teacher's where they can be, the teacher's stored outputs,
and as many steps as the pick makes in ``--minutes``. The best ``--again`` are trained with a second seed. Accuracy is
that of the float network on all test images. Students that are in the output file already are not trained again.
"""

from __future__ import annotations

import argparse
import json
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import mkdtemp
from typing import Any

import torch
from torch import nn

from compressor import catalog
from compressor.core import ImageSplit, InputSpec, image_signature
from compressor.data import Source, load_data
from compressor.frontend import TorchSession, load_checkpoint
from compressor.losses import objective
from compressor.models.common.family import Architecture, Family
from compressor.models.common.layers import count
from compressor.passes.distill import Distill
from compressor.plan import with_machine_quirks
from compressor.preprocessing import parse_normalization
from compressor.scores.common.probe import untrained
from compressor.search.latency import LatencyTable
from compressor.tasks.classification import Classification
from compressor.train.augmentation import Augmentation
from compressor.train.fit import Duration, fit, fit_step_seconds
from compressor.train.inherit import inherit
from compressor.train.predictor import make_predictor
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets

INPUT = InputSpec(3, 32, 32)
SIGNATURE, _ = image_signature(INPUT, 10)
WITHIN = 0.05
SETTINGS = Distill()


def quiet(message: str, done: int, total: int) -> None:
    return


def family_of(run: Path) -> tuple[type[Family], Mapping[str, Any]]:
    """The family that a run searched, and what its report tells of the search."""
    report = json.loads((run / "report.json").read_text())
    metrics = next(p for p in report["passes"] if p["kind"] == "search")["metrics"]
    return catalog.find("models", metrics["space"]), metrics


def chosen(run: Path, wanted: int) -> list[dict[str, Any]]:
    """A row for the pick, one for the score's own pick, and rows for random others of the pick's latency."""
    plan = tomllib.loads((run / "resolved.toml").read_text())
    settings = next(p for p in plan["pass"] if p["kind"] == "search")
    family, metrics = family_of(run)
    target = with_machine_quirks(catalog.find_target(plan["options"]["target"]))
    table = LatencyTable(target, metrics["timed_as"], Path(mkdtemp()), lambda name, key, compute: compute())
    table.read(Path(settings["table"]))
    halving = metrics.get("successive_halving")
    by_score = [halving["before"].partition(" ")[2]] if halving else []  # behind the family's name
    picks = dict.fromkeys([metrics["student"], *by_score])
    found: dict[str, float] = {}
    for text in picks:
        architecture = family.decode(json.loads(text), INPUT, 10)
        found[json.dumps(architecture.encode())] = table.predict([architecture], INPUT, quiet)[0]
    pick = family.decode(json.loads(metrics["student"]), INPUT, 10)
    latency = next(iter(found.values()))
    for children in mutants(family, pick, target.width_multiple):
        for child, taken in zip(children, table.predict(children, INPUT, quiet), strict=True):
            if abs(taken / latency - 1) <= WITHIN and len(found) < wanted:
                found.setdefault(json.dumps(child.encode()), taken)
        if len(found) == wanted:
            break
    chosen_by = dict(zip(found, ("search", "score") if len(picks) > 1 else ("search and score",), strict=False))
    rows = []
    for text, taken in found.items():
        cost = count(family.decode(json.loads(text), INPUT, 10), INPUT)
        rows.append({
            "student": text, "chosen_by": chosen_by.get(text, "chance"), "latency": taken / latency, "macs": cost.macs,
            "params": cost.params, "accuracy": [],
        })  # fmt: skip
    return rows


def mutants(family: type[Family], pick: Architecture, multiple: int) -> Iterator[Sequence[Architecture]]:
    """Yield random members of the family whose MACs are like the pick's."""
    generator = random.Random(0)
    seeds = family.seeds(INPUT, 10, multiple)
    for _ in range(400):
        children = []
        for _ in range(64):
            child = generator.choice(seeds)
            for _ in range(generator.randint(4, 16)):
                child = child.mutated(generator, multiple)
            # A student that costs several times the MACs would only fill the table.
            if 0.3 < count(child, INPUT).macs / count(pick, INPUT).macs < 2:
                children.append(child)
        yield children


@dataclass(frozen=True)
class Trainer:
    """Distils students alike."""

    family: type[Family]
    teacher: nn.Module
    targets: SoftTargets
    evaluated: ImageSplit

    @classmethod
    def prepare(cls, family: type[Family], options: argparse.Namespace) -> Trainer:
        scaling = parse_normalization("imagenet", 3)
        source = load_data(options.data)
        assert isinstance(source, Source)
        data = source.prepare(INPUT, scaling, SIGNATURE.input.name)
        assert data.train is not None
        split = data.train.take(data.train.raw.sample(options.images))
        samples = Samples(split, INPUT, scaling, 10, Augmentation(SETTINGS.shift, True, SETTINGS.mixup), 0)
        teacher = load_checkpoint(options.teacher).build()
        folder = options.answers or Path(mkdtemp())
        folder.mkdir(parents=True, exist_ok=True)
        targets = SoftTargets(samples, options.views, folder, "teacher")
        targets.prepare(make_predictor(teacher, "auto", "cpu", Path(mkdtemp())), quiet)
        return cls(family, teacher, targets, data.evaluate)

    def start(self, student: str, seed: int) -> nn.Module:
        network = untrained(self.family.decode(json.loads(student), INPUT, 10), seed)
        inherit(network, self.teacher)
        return network

    def steps(self, student: str, minutes: float) -> int:
        """The steps that a student makes in so many minutes."""
        network, terms = self.start(student, 0), objective(SETTINGS.losses)
        return int(60 * minutes / fit_step_seconds(network, self.targets, terms, SETTINGS.optimizer_config, "cpu"))

    def accuracy(self, student: str, steps: int, seed: int) -> float:
        network = self.start(student, seed)
        fit(
            network, self.targets, objective(SETTINGS.losses), SETTINGS.optimizer_config, Duration(steps=steps),
            seed=seed, device="cpu", checkpoint=None, remember=lambda compute: compute(), progress=quiet,
        )  # fmt: skip
        metric, _ = Classification().evaluate(TorchSession(network, SIGNATURE), self.evaluated, 500, quiet)
        return metric.value


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table, the best student first."""
    yield "| student | chosen by | latency / pick's | MACs | parameters | top1 |"
    yield "|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: -mean(row["accuracy"])):
        reached = ", ".join(f"{each:.2%}" for each in row["accuracy"])
        yield (
            f"| {row['student']} | {row['chosen_by']} | {row['latency']:.2f} | {row['macs']:,} | {row['params']:,} | "
            f"{reached} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--students", type=int, default=12)
    parser.add_argument("--again", type=int, default=4, help="the best so many have a second seed")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--views", type=int, default=2, help="of each image, with the teacher's answer stored")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--answers", type=Path, default=None, help="keeps the teacher's answers between cases")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    family, metrics = family_of(options.run)
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    rows = known.get("rows") or chosen(options.run, options.students)
    trainer = Trainer.prepare(family, options)
    steps = known.get("steps") or trainer.steps(rows[0]["student"], options.minutes)

    def train(row: dict[str, Any], seed: int) -> None:
        if len(row["accuracy"]) == seed:
            row["accuracy"].append(trainer.accuracy(row["student"], steps, seed))
            options.out.write_text(json.dumps({"steps": steps, "rows": rows}, indent=1) + "\n")
            print(f"{row['student']}, seed {seed}: {row['accuracy'][seed]:.4f}", flush=True)

    for row in rows:
        train(row, 0)
    for row in sorted(rows, key=lambda row: -row["accuracy"][0])[: options.again]:
        train(row, 1)
    print("\n".join(table(rows)))
    first = sorted((row["accuracy"][0] for row in rows), reverse=True)
    for row in rows:
        if row["chosen_by"] != "chance":
            print(f"The {row['chosen_by']}'s pick is number {1 + first.index(row['accuracy'][0])} of {len(rows)}.")
    if halving := metrics.get("successive_halving"):
        print(f"Successive halving took {halving['seconds'] / 60:.1f} minutes. {steps} steps each.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
