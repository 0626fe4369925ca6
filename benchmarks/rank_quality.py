"""How well each score orders networks by the accuracy that they really reach, on spaces that chose nothing of it.

    python benchmarks/rank_quality.py TRUTHS DATA [--photographs FOLDER] [--students 150] [--seeds 2] [--resnets FILE]

TRUTHS is a folder of public truths as JSON (shufflenetv2_cifar100, mobilenetv2_cifar100, nas_bench_macro_cifar10,
accel_nasbench_imagenet); ``--resnets`` the list of DisWOT's 64 distilled ResNets. DATA are the images of 32 pixels that
networks are scored on, ``--photographs`` those of 224: scores see images, never accuracies. A seed is a batch of images
and an initialisation; the teacher of scores that compare with one is an untrained ResNet-56.

The first table has Kendall's tau of each score, overall and as the mean over quarters of equal MACs. The second leaves
one space out at a time: the blend of a capacity, a second score and its weight that is best on the others, and its
tau on the space that was left out. Scores are kept in ``rank_quality.npz``, and not computed again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata
from spaces import SPACES, Candidate

from compressor import catalog
from compressor.core import InputSpec, Split
from compressor.data import PhotographSource, Source, load_data
from compressor.preprocessing import parse_normalization
from compressor.scores.common.probe import Batch, Probe
from compressor.scores.stage_macs import StageMacs
from compressor.search.batch import of_split, samples_of
from compressor.search.ranking import WEIGHTS, blend
from compressor.search.scoring import teacher_view

Values = dict[str, NDArray[np.float64]]
NAMED = (
    "params", "macs", "depth", "width", "stage-macs", "effective-rank", "nwot", "synflow", "zen", "gradnorm",
    "relation", "semantic",
)  # fmt: skip
VARIANTS = {f"stage-macs {d:g}/{p}": StageMacs(d, p) for d, p in itertools.product((1.0, 0.85, 0.7, 0.5), (0, 4))}
CAPACITIES = ("params", "macs", "width", *VARIANTS)
SECONDS = ("effective-rank", "nwot", "synflow", "zen", "gradnorm", "relation", "semantic", "params", "depth")
SHARES = (0.0, 0.2, 0.25, 0.33, 0.5)


def rows_of(options: argparse.Namespace) -> dict[str, list[tuple[Candidate, float]]]:
    """Return the candidates of each truth and their accuracies: a random part, the same every time."""
    found = {}
    for name, space in SPACES.items():
        if name == "resnets_cifar100":
            if options.resnets is None:
                continue
            lines = [line.split() for line in options.resnets.read_text().splitlines() if line.strip()]
            rows = [(json.dumps([int(digit) for digit in code]), float(accuracy)) for code, accuracy in lines]
        else:
            listed = json.loads((options.truths / f"{name}.json").read_text())["rows"]
            rows = [(json.dumps(row["arch"]), row[space.truth]) for row in listed]
        taken = np.random.default_rng(0).permutation(len(rows))[: options.students]
        found[name] = [(Candidate(name, rows[i][0]), rows[i][1]) for i in taken]
    return found


def batch_of(source: str, input: InputSpec, classes: int, seed: int) -> Batch:
    """Draw the images that a space is scored on; labels beyond the data's own classes are drawn at random."""
    data = load_data(source)
    assert isinstance(data, Source | PhotographSource)
    scaling = parse_normalization("imagenet", 3)
    if isinstance(data, PhotographSource):
        split: Split = data.prepare(input, scaling, "input", 1).evaluate
    else:
        prepared = data.prepare(input, scaling, "input")
        split = prepared.train or prepared.evaluate
    batch = of_split(split, samples_of(input), seed)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, classes, len(batch.images)))
    return Batch(batch.images, labels)


def scored(candidate: Candidate, input: InputSpec, batch: Batch, view: object, seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    probe = Probe(candidate, input, batch, view, (seed,))  # type: ignore[arg-type]
    scores = {name: catalog.find("scores", name)()(probe) for name in NAMED}
    return scores | {name: score(probe) for name, score in VARIANTS.items()}


def score_space(name: str, rows: Sequence[tuple[Candidate, float]], options: argparse.Namespace, seed: int) -> Values:
    """Compute every score of a space's candidates."""
    space = SPACES[name]
    input = InputSpec(3, space.side, space.side)
    batch = batch_of(options.data if space.side <= 64 else options.photographs, input, space.classes, seed)
    teacher = catalog.find("models", "cifar-resnet").decode({"depths": [9, 9, 9]}, InputSpec(3, 32, 32), space.classes)
    view = teacher_view(teacher.build(), batch, seed)
    jobs = (delayed(scored)(candidate, input, batch, view, seed) for candidate, _ in rows)
    made = Parallel(n_jobs=len(os.sched_getaffinity(0)))(jobs)
    print(f"{name}, seed {seed}: {len(rows)} networks scored", flush=True)
    return {key: np.array([each[key] for each in made]) for key in made[0]}


def tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Kendall's tau; 0 for a score that is the same for all."""
    return float(np.nan_to_num(kendalltau(a, b).statistic))


def quarters(score: NDArray[np.float64], truth: NDArray[np.float64], macs: NDArray[np.float64]) -> float:
    """The mean tau within quarters of equal cost."""
    bands = np.digitize(macs, np.quantile(macs, [0.25, 0.5, 0.75]))
    return float(np.nanmean([tau(score[bands == band], truth[bands == band]) for band in range(4)]))


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    ranked: NDArray[np.float64] = rankdata(np.nan_to_num(values, nan=-np.inf)) / len(values)
    return ranked


def quality(
    score: Sequence[NDArray[np.float64]], values: Sequence[Values], truth: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the mean over seeds of tau, overall and within quarters."""
    each = [(tau(s, truth), quarters(s, truth, v["macs"])) for s, v in zip(score, values, strict=True)]
    overall, within = np.mean(each, axis=0)
    return float(overall), float(within)


def first_table(tables: Mapping[str, Sequence[Values]], truths: Mapping[str, NDArray[np.float64]]) -> None:
    print("\n| score | " + " | ".join(truths) + " | mean |\n" + "|---" * (2 + len(truths)) + "|")
    weights = ", ".join(f"{weight:g} x {name}" for name, weight in WEIGHTS.items())
    lines = {f"**default** ({weights})": {n: [blend(v) for v in tables[n]] for n in truths}}
    lines |= {name: {n: [v[name] for v in tables[n]] for n in truths} for name in (*NAMED, *VARIANTS)}
    for name, scores in lines.items():
        each = [quality(scores[n], tables[n], truths[n]) for n in truths]
        cells = [f"{overall:.2f} ({within:.2f})" for overall, within in (*each, np.mean(each, axis=0))]
        print(f"| {name} | " + " | ".join(cells) + " |")


def left_out(tables: Mapping[str, Sequence[Values]], truths: Mapping[str, NDArray[np.float64]]) -> None:
    """Print what is chosen without each space, and what that is worth on it; and what all spaces choose."""
    blends = [
        (c, s, w) for c, s, w in itertools.product(CAPACITIES, SECONDS, SHARES) if (w or s == SECONDS[0]) and c != s
    ]

    def made(n: str, how: tuple[str, str, float]) -> list[NDArray[np.float64]]:
        capacity, second, share = how
        return [(1 - share) * ranks(v[capacity]) + share * ranks(v[second]) for v in tables[n]]

    found = {n: {how: sum(quality(made(n, how), tables[n], truths[n])) / 2 for how in blends} for n in truths}
    print("\n| left out | chosen on the others | tau there | within quarters | #MACs | #params |\n" + "|---" * 6 + "|")
    for out in (*truths, None):
        others = [n for n in truths if n != out]
        best = max(blends, key=lambda how: float(np.mean([found[n][how] for n in others])))
        name = f"{best[0]}, {best[2]:.0%} {best[1]}" if best[2] else best[0]
        if out is None:
            print(f"| none | {name} | | | | |")
            continue
        cells = [*quality(made(out, best), tables[out], truths[out])]
        cells += [quality([v[count] for v in tables[out]], tables[out], truths[out])[0] for count in ("macs", "params")]
        print(f"| {out} | {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truths", type=Path)
    parser.add_argument("data")
    parser.add_argument("--photographs", default="builtin:photographs")
    parser.add_argument("--resnets", type=Path)
    parser.add_argument("--students", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--kept", type=Path, default=Path("rank_quality.npz"))
    options = parser.parse_args()
    rows = rows_of(options)
    kept: Values = dict(np.load(options.kept)) if options.kept.exists() else {}
    tables: dict[str, list[Values]] = {}
    for name, seed in itertools.product(rows, range(options.seeds)):
        start = f"{name} {seed} {len(rows[name])} "
        if not any(key.startswith(start) for key in kept):
            kept |= {start + key: values for key, values in score_space(name, rows[name], options, seed).items()}
            np.savez(options.kept, **kept)  # type: ignore[arg-type]
        own = {key.removeprefix(start): values for key, values in kept.items() if key.startswith(start)}
        tables.setdefault(name, []).append(own)
    truths = {name: np.array([accuracy for _, accuracy in each]) for name, each in rows.items()}
    first_table(tables, truths)
    left_out(tables, truths)


if __name__ == "__main__":
    main()
