"""From 8-bit pixels to a network's input, and finding out how a network wants it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from compressor.catalog import unknown
from compressor.core import Normalization, UsageError

_BYTE = 1 / 255
_AGREE = 0.95
_CLEAR = 2.0
_BATCH = 64

NORMALIZATIONS: Mapping[str, Normalization] = MappingProxyType(
    {
        n.name: n
        for n in (
            Normalization("imagenet", _BYTE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            Normalization("cifar10", _BYTE, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
            Normalization("mnist", _BYTE, (0.1307,), (0.3081,)),
            Normalization("unit", _BYTE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
            Normalization("symmetric", _BYTE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            Normalization("raw", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        )
    }
)
"""All that have a name; those that treat every channel alike suit any number of them."""


@dataclass(frozen=True)
class Inferred:
    """The normalisation that a network was found to want, and why."""

    normalization: Normalization
    accuracies: Mapping[str, float]
    """The fraction of the sample that is right with each candidate."""
    note: str
    """A sentence for the report."""


def normalize(pixels: NDArray[np.uint8], normalization: Normalization) -> NDArray[np.float32]:
    """``(pixels * scale - mean) / std`` for N x C x H x W."""
    shape = (-1, 1, 1)
    out = pixels.astype(np.float32)
    out *= np.float32(normalization.scale)
    out -= np.array(normalization.mean, np.float32).reshape(shape)
    out /= np.array(normalization.std, np.float32).reshape(shape)
    return out


def candidates(channels: int) -> tuple[Normalization, ...]:
    """The named normalisations that suit so many channels."""
    return tuple(fitted for n in NORMALIZATIONS.values() if (fitted := _for_channels(n, channels)))


def parse_normalization(text: str, channels: int) -> Normalization:
    """Read ``--normalize``: a name, or ``MEAN/STD``, one number a channel on the [0, 1] scale.

    The result's name reads back as the same. Raises UsageError for anything else.
    """
    if "/" in text:
        mean, std = _statistics(text, channels)
        return Normalization(text, _BYTE, mean, std)
    if text not in NORMALIZATIONS:
        raise unknown("normalisation", text, [*NORMALIZATIONS, "MEAN/STD (such as 0.5,0.5,0.5/0.25,0.25,0.25)"])
    known = NORMALIZATIONS[text]
    fitted = _for_channels(known, channels)
    if fitted is None:
        raise UsageError(
            f"normalisation {text!r} has {len(known.mean)} channels, the network {channels}",
            hint=f"name one of {', '.join(n.name for n in candidates(channels))}, or MEAN/STD",
        )
    return fitted


def infer_normalization(
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    family_default: str | None,
    channels: int,
) -> Inferred:
    """Try the candidates on a sample of training data (N x C x H x W) and take the one that wins.

    ``predict`` maps normalised N x C x H x W to N x K scores. Candidates that agree on 95 % of the
    sample count as one; the winner's best must beat every candidate outside of its group by two
    standard errors of the paired difference, and chance clearly. Inside the group the family's
    default is taken, else the best. Raises UsageError with the accuracies if no group wins.
    """
    tried = candidates(channels)
    guesses: dict[str, NDArray[np.int64]] = {}
    chance = 1.0
    for candidate in tried:
        guesses[candidate.name], classes = _guess(predict, pixels, candidate)
        chance = 1 / classes
    right = {name: guess == labels for name, guess in guesses.items()}
    accuracies = {name: float(r.mean()) for name, r in right.items()}
    table = ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in accuracies.items())
    best = max(accuracies, key=accuracies.__getitem__)
    group = _group(best, guesses)
    above_chance = accuracies[best] - chance > max(0.05, 3 * math.sqrt(chance * (1 - chance) / len(labels)))
    if not above_chance or not all(_clearly_better(right[best], r) for n, r in right.items() if n not in group):
        raise UsageError(
            f"no normalisation is clearly the network's own; right on {len(labels)} samples of training data: {table}",
            hint="name it with --normalize"
            + ("" if above_chance else ", and check that the data's classes are the network's, in its order"),
        )
    taken = family_default if family_default in group else best
    reason = "the family's default among those that fit" if taken == family_default else "the best"
    note = f"normalisation {taken!r} taken, {reason} on {len(labels)} samples of training data: {table}"
    return Inferred(next(n for n in tried if n.name == taken), accuracies, note)


def _for_channels(known: Normalization, channels: int) -> Normalization | None:
    if len(known.mean) == channels:
        return known
    if len(known.mean) == 1 or len({*known.mean}) > 1 or len({*known.std}) > 1:
        return None
    return Normalization(known.name, known.scale, known.mean[:1] * channels, known.std[:1] * channels)


def _statistics(text: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    hint = f"write MEAN/STD with {channels} comma-separated numbers each, such as " + "/".join(
        ",".join([number] * channels) for number in ("0.5", "0.25")
    )
    try:
        mean, std = (tuple(map(float, half.split(","))) for half in text.split("/"))
    except ValueError as error:
        raise UsageError(f"not a normalisation: {text!r}", hint=hint) from error
    if len(mean) != channels or len(std) != channels:
        raise UsageError(
            f"normalisation {text!r} has {len(mean)} means and {len(std)} deviations, the network {channels} channels",
            hint=hint,
        )
    if not all(abs(m) <= 1 for m in mean) or not all(0 < s <= 1 for s in std):
        raise UsageError(
            f"normalisation {text!r} is not on the [0, 1] scale",
            hint="divide means and deviations of 0-255 pixels by 255; deviations are above 0",
        )
    return mean, std


def _guess(
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]], pixels: NDArray[np.uint8], candidate: Normalization
) -> tuple[NDArray[np.int64], int]:
    """The predicted labels, -1 where there is no telling, and the number of classes."""
    batches = (pixels[n : n + _BATCH] for n in range(0, len(pixels), _BATCH))
    scores = np.concatenate([predict(normalize(batch, candidate)) for batch in batches])
    return np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1)), scores.shape[1]


def _group(member: str, guesses: Mapping[str, NDArray[np.int64]]) -> Sequence[str]:
    """All candidates that agree with ``member``, or with one that does, and so on."""
    group = [member]
    for name in group:  # grows while it is walked
        group += [n for n, g in guesses.items() if n not in group and float((g == guesses[name]).mean()) >= _AGREE]
    return group


def _clearly_better(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """McNemar: whether ``one`` is right where ``other`` is not, and not the reverse, by two errors."""
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return wins - losses >= _CLEAR * math.sqrt(wins + losses) and wins > losses
