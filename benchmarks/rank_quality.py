"""How well each score orders students by the accuracy that they really reach.

    python benchmarks/rank_quality.py TRUTH DATA [--seeds 5] [--own benchmarks/kd_truth.json] [--students N]

TRUTH is the JSON of 300 ShuffleNetV2 students with their accuracies on CIFAR-100 (Trofimov et al.);
DATA images of 32 x 32 (CIFAR-10 stands in: scores see images, never accuracies). A seed is a batch of
images and a set of random initialisations. Kendall's tau and Spearman's rho against ``kd_third``
and ``nokd_full``, over all students and as the mean over quarters of equal MACs; the weights of the
default score were chosen on the first half of the students (a fixed shuffle), so the second half
stands beside. ``--own`` are the truths that kd_truth.py makes: there the difference to the best
count is bootstrapped, pooled over the spaces.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from compressor import catalog
from compressor.core import InputSpec, Split
from compressor.data import Source, load_data
from compressor.models.common.family import Family
from compressor.preprocessing import parse_normalization
from compressor.search.batch import of_split
from compressor.search.ranking import WEIGHTS, blend
from compressor.search.scoring import Scoring, seeds_of, teacher_view

COUNTS = ("params", "macs", "depth")
RIVALS = (*COUNTS, "nwot", "synflow", "gradnorm", "zen")
SAMPLES, INITS = 64, 2
Values = Mapping[str, NDArray[np.float64]]


def scored(students: Sequence[Family], split: Split, input: InputSpec, classes: int, seeds: int) -> list[Values]:
    """Every score of every student, a table for each seed."""
    names = tuple(dict.fromkeys((*RIVALS, *WEIGHTS)))
    teacher = catalog.find("models", "cifar-resnet").decode({"depths": [9, 9, 9]}, input, classes)
    tables: list[Values] = []
    for seed in range(seeds):
        batch = of_split(split, SAMPLES, seed)
        view = teacher_view(teacher.build(), batch, seed)
        rows = Scoring(names, input, batch, view, seeds_of(seed, INITS), len(os.sched_getaffinity(0)))(students)
        table = {name: np.array([row[name] for row in rows]) for name in names}
        tables.append({"default": blend(table), **table})
        print(f"seed {seed} done", flush=True)
    return tables


def tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(kendalltau(a, b).statistic)


def quarters(score: NDArray[np.float64], truth: NDArray[np.float64], macs: NDArray[np.float64]) -> float:
    """The mean tau within quarters of equal cost."""
    bands = np.digitize(macs, np.quantile(macs, [0.25, 0.5, 0.75]))
    return float(np.nanmean([tau(score[bands == band], truth[bands == band]) for band in range(4)]))


def table(tables: Sequence[Values], truths: Mapping[str, NDArray[np.float64]], held_out: NDArray[np.int64]) -> None:
    head = [f"{truth} {what}" for truth in truths for what in ("tau", "rho", "held out", "in bands")]
    print("| score | " + " | ".join(head) + " |")
    print("|---" * (1 + len(head)) + "|")
    for name in tables[0]:
        cells = []
        for truth in truths.values():
            runs = [
                (
                    tau(t[name], truth),
                    float(spearmanr(t[name], truth).statistic),
                    tau(rescored(t, name, held_out), truth[held_out]),
                    quarters(t[name], truth, t["macs"]),
                )
                for t in tables
            ]
            mean, spread = np.mean(runs, axis=0), np.std(runs, axis=0)
            cells += [f"{m:.3f} ±{s:.3f}" if s > 5e-4 else f"{m:.3f}" for m, s in zip(mean, spread, strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")


def rescored(values: Values, name: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """A score of some of the students; the default is blended anew, as ranks depend on the population."""
    if name == "default":
        return blend({other: column[rows] for other, column in values.items() if other != "default"})
    return values[name][rows]


def own(path: Path, split: Split, seeds: int) -> None:
    """The spaces of kd_truth.py: each score's tau, and the pooled bootstrap of tau(default) - tau(best count)."""
    rows = json.loads(path.read_text())["rows"]
    input, pools = InputSpec(3, 16, 16), []
    for space in sorted({row["space"] for row in rows}):
        members = [row for row in rows if row["space"] == space]
        truth = np.array([row["accuracy"] for row in members])
        students = [catalog.find("models", space).decode(row["arch"], input, 10) for row in members]
        tables = scored(students, split, input, 10, seeds)
        means = {name: np.mean([tau(t[name], truth) for t in tables]) for name in tables[0]}
        print(f"{space}, {len(members)} students: " + ", ".join(f"{n} {m:.2f}" for n, m in means.items()))
        pools.append((truth, tables))
    generator = np.random.default_rng(0)
    differences = []
    for _ in range(2000):
        drawn = []
        for truth, tables in pools:
            picked = generator.integers(len(truth), size=len(truth))
            values = tables[generator.integers(len(tables))]
            counts = max(tau(values[count][picked], truth[picked]) for count in COUNTS)
            drawn.append(tau(rescored(values, "default", picked), truth[picked]) - counts)
        differences.append(np.mean(drawn))
    low, high = np.nanquantile(differences, [0.05, 0.95])
    mean = np.nanmean(differences)
    print(f"tau(default) - tau(best count), pooled: {mean:+.3f}, 90 % interval {low:+.3f} to {high:+.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--students", type=int, default=None, help="only so many of the 300")
    parser.add_argument("--own", type=Path, default=Path(__file__).with_name("kd_truth.json"))
    options = parser.parse_args()
    source = load_data(options.data)
    assert isinstance(source, Source)
    scaling = parse_normalization("imagenet", 3)
    prepared = source.prepare(InputSpec(3, 16, 16), scaling, "input")
    assert prepared.train is not None
    if options.own.exists():
        own(options.own, prepared.train, options.seeds)
    rows = json.loads(options.truth.read_text())["rows"][: options.students]
    input = InputSpec(3, 32, 32)
    students = [catalog.find("models", "shufflenetv2").decode(row["arch"], input, 100) for row in rows]
    split = source.prepare(input, scaling, "input").train
    assert split is not None
    tables = scored(students, split, input, 100, options.seeds)
    truths = {name: np.array([row[name] for row in rows]) for name in ("kd_third", "nokd_full")}
    held_out = np.random.default_rng(0).permutation(len(rows))[len(rows) // 2 :]
    table(tables, truths, held_out)


if __name__ == "__main__":
    main()
