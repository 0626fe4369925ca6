"""Short distillations of a search's finalists, by successive halving."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from compressor.core import Context, Json, Model, Split, VerificationFailed
from compressor.losses import objective
from compressor.models.common.family import Architecture
from compressor.scores.common.probe import untrained
from compressor.train.fit import fit_step_seconds
from compressor.train.inherit import inherit
from compressor.train.distill_config import DistillConfig
from compressor.train.student import fit_with_checkpoints
from compressor.train.teacher import prepare_teacher

__all__ = ["Tried", "trials"]

_TAUGHT, _JUDGED = 10_000, 2_000
"""Training samples, at most, that are learned from and judged on: never one of the evaluation half."""


@dataclass(frozen=True)
class Tried:
    """What the trials say."""

    order: tuple[int, ...]
    """The finalists, the best first."""
    steps: tuple[int, ...]
    """Of each round."""
    told: dict[str, Json]
    """For the report."""


def trials(
    finalists: Sequence[Architecture], minutes: float, steps: Sequence[int], teacher: Model, context: Context
) -> Tried:
    """Distil the finalists side by side, drop the worse half, go on with the others (Jamieson & Talwalkar 2016).

    Every round takes an equal share of ``minutes``, every student of a round as many steps (``steps`` where
    an earlier run found them). A student is as good as its top-1 on training samples that are held out of
    the trials; one that was dropped keeps its place behind those that went on.
    """
    assert context.data is not None
    assert context.data.train is not None
    begun = time.perf_counter()
    taught, judged = _halves(context.data.train, context.seed)
    lessons = DistillConfig(minutes=None, steps=1, views=2, warmup=0.1)
    ready = prepare_teacher(lessons, teacher, context, taught)
    networks = [_first(each, ready.network, context.seed) for each in finalists]
    keys = [json.dumps(each.encode()) for each in finalists]

    def seconds(index: int) -> float:
        terms, config = objective(lessons.losses), lessons.optimizer_config
        return fit_step_seconds(networks[index], ready.data, terms, config, context.device)

    def fitting(indices: Sequence[int]) -> int:
        return max(1, int(60 * minutes / rounds / sum(map(seconds, indices))))

    rounds = max(1, (len(finalists) - 1).bit_length())
    alive, behind = list(range(len(finalists))), list[int]()
    taken, shown = [], list[dict[str, Json]]()
    for number in range(rounds):
        if number < len(steps):
            length = steps[number]
        else:
            said = [minutes, rounds, sorted(keys[i] for i in alive), teacher.sha256, context.seed]
            length = context.memo("trial-steps", said, partial(fitting, alive))
        taken.append(length)
        reached = {}
        for index in alive:
            key = [keys[index], number, taken, teacher.sha256]
            what = f"trial {number + 1} of {rounds}"
            try:
                fit_with_checkpoints(replace(lessons, steps=length), networks[index], ready, key, context, what)
                reached[index] = _accuracy(networks[index], judged)
            except VerificationFailed:  # its training diverged: the others' may not have
                reached[index] = 0.0
        alive.sort(key=lambda index: (-reached[index], index))
        shown.append({"steps": length, "top1": {keys[index]: reached[index] for index in alive}})
        half = (len(alive) + 1) // 2
        alive, behind = alive[:half], alive[half:] + behind
    order = (*alive, *behind)
    told = {
        "minutes": minutes,
        "seconds": time.perf_counter() - begun,
        "learned_from": taught.name,
        "judged_on": judged.name,
        "rounds": shown,
        "changed": order[0] != 0,
        "before": keys[0],
        "after": keys[order[0]],
    }
    return Tried(order, tuple(taken), told)


def _halves(split: Split, seed: int) -> tuple[Split, Split]:
    shuffled = np.random.default_rng([seed, 4]).permutation(len(split))
    judged = min(_JUDGED, max(1, len(split) // 5))
    return split.take(np.sort(shuffled[judged : judged + _TAUGHT])), split.take(np.sort(shuffled[:judged]))


def _first(architecture: Architecture, teacher: nn.Module, seed: int) -> nn.Module:
    network = untrained(architecture, seed)
    inherit(network, teacher)
    return network


def _accuracy(network: nn.Module, split: Split) -> float:
    network.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in split.batches(250):
            right += int((network(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
    return right / len(split)
