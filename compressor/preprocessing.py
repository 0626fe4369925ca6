"""From 8-bit pixels to a network's input, and finding the normalisation that a network was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from compressor.catalog import unknown
from compressor.core import Normalization, UsageError

_BYTE = 1 / 255
_AGREE = 0.95
_CLEAR, _CLEARER = 2.0, 3.0
"""Standard errors by which a candidate must be better, on all samples and on a part of them."""
_STAGES = (32, 64, 128)
"""Samples after which it may be clear already."""
_COLOURS = (48, 160)
"""Samples on which blue first is tried, and on which it must be clearly better: it matters less than the scaling."""
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
"""All named normalisations. One that treats every channel alike suits any number of channels."""


@dataclass(frozen=True)
class Inferred:
    """The normalisation that was found for a network, and why."""

    normalization: Normalization
    accuracies: Mapping[str, float]
    """The fraction of the samples that is classified correctly with each candidate."""
    note: str
    """A sentence for the report."""


def normalize(pixels: NDArray[np.uint8], normalization: Normalization) -> NDArray[np.float32]:
    """Compute ``(pixels * scale - mean) / std`` of N x C x H x W, in the network's order of colours and its layout."""
    shape = (-1, 1, 1)
    out = pixels.astype(np.float32)
    out *= np.float32(normalization.scale)
    out -= np.array(normalization.mean, np.float32).reshape(shape)
    out /= np.array(normalization.std, np.float32).reshape(shape)
    if normalization.channels == "bgr":
        out = np.ascontiguousarray(out[:, ::-1])
    return out if normalization.layout == "nchw" else np.ascontiguousarray(out.transpose(0, 2, 3, 1))


def candidates(channels: int) -> tuple[Normalization, ...]:
    """Return the named normalisations that suit this number of channels."""
    return tuple(fitted for n in NORMALIZATIONS.values() if (fitted := _for_channels(n, channels)))


def parse_normalization(text: str, channels: int) -> Normalization:
    """Read ``--normalize``: a name, or ``MEAN/STD`` with a number for each channel on the [0, 1] scale.

    Parsing the result's name gives the same normalisation. Raises UsageError for anything else.
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
    channels: str | None,
    layout: str,
) -> Inferred:
    """Try the candidates on samples of training data (N x C x H x W) and choose the one that is clearly best.

    ``predict`` maps normalised batches of ``layout`` to N x K scores. Candidates whose predictions agree on 95 % of the
    samples form a group. The best candidate must beat every candidate outside its group by two standard errors of the
    paired difference, and beat chance clearly. Within the group the family's default is chosen, else the best. A part
    of the samples is enough where it is clear there by three standard errors. With ``channels`` None (not known) blue
    first is tried too, and taken where that is clearly better. Raises UsageError with all accuracies where no group
    wins.
    """
    tried = tuple(replace(each, channels=channels or "rgb", layout=layout) for each in candidates(pixels.shape[1]))
    order = np.random.default_rng(0).permutation(len(labels))  # they may come class by class
    guesses: dict[str, NDArray[np.int64]] = {}
    counts = [*(n for n in _STAGES if 2 * n <= len(labels)), len(labels)]
    for count in counts:
        new, last = order[len(next(iter(guesses.values()), ())) : count], count == len(labels)
        classes = 1
        for candidate in tried:
            guess, classes = _guess(predict, pixels[new], candidate)
            guesses[candidate.name] = np.concatenate([guesses.get(candidate.name, guess[:0]), guess])
        verdict = _Verdict(guesses, labels[order[:count]], 1 / classes, _CLEAR if last else _CLEARER)
        if verdict.clear:
            break
    if not verdict.clear:
        raise UsageError(
            f"no normalisation is clearly the network's own; accuracy on {len(labels)} training samples: "
            f"{verdict.table}",
            hint="name it with --normalize"
            + ("" if verdict.above_chance else ", and check that the data's classes are the network's, in its order"),
        )
    chosen = verdict.best if family_default is None or family_default not in verdict.group else family_default
    reason = "the family's default among those that fit" if chosen == family_default else "the best"
    note = f"normalisation {chosen!r}, {reason} on {count} samples of training data: {verdict.table}"
    normalization = next(n for n in tried if n.name == chosen)
    if channels is None and pixels.shape[1] == 3:
        right = _right_by_colours(predict, pixels[order], labels[order], normalization)
        if _clearly_better(right["bgr"], right["rgb"], _CLEARER):
            told = f"{note}; blue first: {right['bgr'].mean():.1%} right, against {right['rgb'].mean():.1%} red first"
            return Inferred(replace(normalization, channels="bgr"), verdict.accuracies, told)
    return Inferred(normalization, verdict.accuracies, note)


class _Verdict:
    """What the predictions with each candidate say."""

    def __init__(
        self, guesses: Mapping[str, NDArray[np.int64]], labels: NDArray[np.int64], chance: float, errors: float
    ) -> None:
        self.labels = labels
        self.right = {name: guess == labels for name, guess in guesses.items()}
        self.accuracies = {name: float(r.mean()) for name, r in self.right.items()}
        self.best = max(self.accuracies, key=self.accuracies.__getitem__)
        self.group = _group(self.best, guesses)
        least = max(0.05, 3 * math.sqrt(chance * (1 - chance) / len(labels)))
        self.above_chance = self.accuracies[self.best] - chance > least
        others = [r for name, r in self.right.items() if name not in self.group]
        self.clear = self.above_chance and all(_clearly_better(self.right[self.best], r, errors) for r in others)

    @property
    def table(self) -> str:
        return ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in self.accuracies.items())


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
    """Return the predicted labels, -1 where a score is NaN, and the number of classes."""
    batches = (pixels[n : n + _BATCH] for n in range(0, len(pixels), _BATCH))
    scores = np.concatenate([predict(normalize(batch, candidate)) for batch in batches])
    return np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1)), scores.shape[1]


def _right_by_colours(
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    normalization: Normalization,
) -> dict[str, NDArray[np.bool_]]:
    """Tell which samples are classified correctly red first and blue first, of as many as that takes to tell."""
    right = {each: np.zeros(0, bool) for each in ("rgb", "bgr")}
    for part in (slice(0, _COLOURS[0]), slice(*_COLOURS)):
        if not len(labels[part]) or right["bgr"].sum() < right["rgb"].sum():
            break
        for each in right:
            guess, _ = _guess(predict, pixels[part], replace(normalization, channels=each))
            right[each] = np.concatenate([right[each], guess == labels[part]])
    return right


def _group(member: str, guesses: Mapping[str, NDArray[np.int64]]) -> Sequence[str]:
    """Return the candidates that agree with ``member``, directly or through others of the group."""
    group = [member]
    for name in group:  # the list grows during the loop
        group += [n for n, g in guesses.items() if n not in group and float((g == guesses[name]).mean()) >= _AGREE]
    return group


def _clearly_better(one: NDArray[np.bool_], other: NDArray[np.bool_], errors: float) -> bool:
    """Tell whether ``one`` is right more often than ``other`` by so many standard errors (McNemar's test)."""
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return wins - losses >= errors * math.sqrt(wins + losses) and wins > losses
