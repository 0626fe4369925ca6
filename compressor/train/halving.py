"""Successive halving: several trainings side by side, of which the worse half stops after each round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from compressor.core import Context, ImageSplit, Json, VerificationFailed

__all__ = ["Halved", "halve", "halving_samples", "rounds_of", "steps_within", "top1"]

_LEARNED_FROM, _JUDGED_ON = 10_000, 2_000
"""Training samples, at most, that are learned from and judged on. Neither are samples of the evaluation half."""


@dataclass(frozen=True)
class Halved:
    """What became of the candidates."""

    order: tuple[int, ...]
    """Their indices, the best first; one that is dropped keeps its place behind those that go on."""
    steps: tuple[int, ...]
    """The steps of each round."""
    reached: tuple[dict[int, float], ...]
    """The accuracy of each that took part in a round, the best first."""

    def rounds(self, names: Sequence[str]) -> list[dict[str, Json]]:
        """Return each round's steps and the accuracies by name, for ``report.json``."""
        return [
            {"steps": steps, "top1": {names[index]: share for index, share in reached.items()}}
            for steps, reached in zip(self.steps, self.reached, strict=True)
        ]


def rounds_of(count: int) -> int:
    """Return the number of halvings that leave one of ``count``."""
    return max(1, (count - 1).bit_length())


def steps_within(minutes: float, count: int, step_seconds: Iterable[float]) -> int:
    """Return the steps with which those of ``count`` that take part fill a round; all rounds take equal shares."""
    return max(1, int(60 * minutes / rounds_of(count) / sum(step_seconds)))


def halve(
    count: int,
    known_steps: Sequence[int],
    steps_of: Callable[[Sequence[int]], int],
    train_and_judge: Callable[[int, int, Sequence[int]], float],
) -> Halved:
    """Train candidates side by side, drop the worse half, go on with the others (Jamieson & Talwalkar 2016, fig. 1).

    ``steps_of`` returns the steps of a round for the candidates that take part in it, where ``known_steps`` of an
    earlier run do not. ``train_and_judge`` takes a candidate, the round's number and the steps of all rounds so far,
    and returns its accuracy; one whose training diverged has 0.
    """
    alive, dropped = list(range(count)), list[int]()
    taken, rounds = list[int](), list[dict[int, float]]()
    for number in range(rounds_of(count)):
        taken.append(known_steps[number] if number < len(known_steps) else steps_of(alive))
        reached = {index: _judged(train_and_judge, index, number, taken) for index in alive}
        alive.sort(key=lambda index: (-reached[index], index))
        rounds.append({index: reached[index] for index in alive})
        half = (len(alive) + 1) // 2
        alive, dropped = alive[:half], alive[half:] + dropped
    return Halved((*alive, *dropped), tuple(taken), tuple(rounds))


def _judged(judge: Callable[[int, int, Sequence[int]], float], index: int, number: int, steps: Sequence[int]) -> float:
    try:
        return judge(index, number, steps)
    except VerificationFailed:
        return 0.0


def halving_samples(context: Context) -> tuple[ImageSplit, ImageSplit]:
    """Draw the training samples to learn from, and those to judge on."""
    assert context.data is not None
    split = cast(ImageSplit, context.data.train)
    shuffled = np.random.default_rng([context.seed, 4]).permutation(len(split))
    judged = min(_JUDGED_ON, max(1, len(split) // 5))
    learned = split.take(np.sort(shuffled[judged : judged + _LEARNED_FROM]))
    return cast(ImageSplit, learned), cast(ImageSplit, split.take(np.sort(shuffled[:judged])))


def top1(network: nn.Module, split: ImageSplit) -> float:
    """Return the share of samples that a network labels right; it is in eval mode afterwards."""
    network.eval()
    right = 0
    with torch.inference_mode():
        for feeds, labels in split.batches(250):
            (images,) = feeds.values()
            right += int((network(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
    return right / len(split)
