"""Naming, applying and finding out a network's normalisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from compressor.core import Normalization, UsageError
from compressor.preprocessing import (
    NORMALIZATIONS,
    candidates,
    infer_normalization,
    normalize,
    parse_normalization,
)

CLASSES = 10
"""Red before green and blue, channels first."""
Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "unit", "symmetric", "raw"])
def test_named(name: str) -> None:
    assert parse_normalization(name, 3) == NORMALIZATIONS[name]


def test_one_channel() -> None:
    assert [n.name for n in candidates(1)] == ["mnist", "unit", "symmetric", "raw"]
    assert [n.name for n in candidates(3)] == ["imagenet", "cifar10", "unit", "symmetric", "raw"]
    assert parse_normalization("symmetric", 1) == Normalization("symmetric", 1 / 255, (0.5,), (0.5,))
    assert parse_normalization("mnist", 1).mean == (0.1307,)


def test_numbers() -> None:
    parsed = parse_normalization("0.5,0.4,0.3/0.25,0.2,0.1", 3)
    assert (parsed.scale, parsed.mean, parsed.std) == (1 / 255, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
    assert parse_normalization(parsed.name, 3) == parsed
    assert parse_normalization("0.1307/0.3081", 1).std == (0.3081,)


@pytest.mark.parametrize(
    ("text", "channels", "words"),
    [
        ("imagnet", 3, "did you mean 'imagenet'"),
        ("imagenet", 1, "mnist, unit, symmetric, raw"),
        ("mnist", 3, "imagenet"),
        ("0.5/0.5", 3, "0.5,0.5,0.5/0.25,0.25,0.25"),
        ("0.5,0.5,0.5/0.5", 3, "3 comma-separated"),
        ("a,b,c/1,1,1", 3, "comma-separated"),
        ("1/2/3", 1, "comma-separated"),
        ("123.7,116.3,103.5/58.4,57.1,57.4", 3, "by 255"),
        ("0.5/0", 1, "above 0"),
        ("nan/0.5", 1, "by 255"),
        ("", 3, "known"),
    ],
)
def test_bad_text(text: str, channels: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_normalization(text, channels)
    assert words in str(caught.value.hint)


def test_normalize() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), np.uint8)
    known = NORMALIZATIONS["imagenet"]
    out = normalize(pixels, known)
    assert out.dtype == np.float32
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (known.mean, known.std))
    np.testing.assert_allclose(out, (pixels / 255 - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(normalize(pixels, NORMALIZATIONS["raw"]), pixels)


# -- inference: a network that reads its class off the first pixel, in the normalisation it wants ---


def samples(channels: int, n: int = 300) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    labels = np.arange(n) % CLASSES
    pixels = np.repeat((labels * 25 + 12).astype(np.uint8), channels * 16).reshape(n, channels, 4, 4)
    return pixels, labels


def network(wants: Normalization, *, right: float = 0.9) -> Predict:
    """Right on ``right`` of the samples that are normalised as it wants, and on few of others."""
    generator = np.random.default_rng(0)

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        pixel = (batch[:, 0, 0, 0] * wants.std[0] + wants.mean[0]) / wants.scale
        label = np.clip(np.rint((pixel - 12) / 25), 0, CLASSES - 1).astype(int)
        label = np.where(generator.random(len(batch)) < right, label, (label + 1) % CLASSES)
        return np.eye(CLASSES, dtype=np.float32)[label]

    return predict


@pytest.mark.parametrize("name", ["unit", "symmetric", "raw"])
@pytest.mark.parametrize("channels", [1, 3])
def test_finds_the_networks_own(name: str, channels: int) -> None:
    wants = parse_normalization(name, channels)
    found = infer_normalization(network(wants), *samples(channels), None, "rgb", "nchw")
    assert found.normalization == wants
    assert found.accuracies[name] > 0.6
    assert set(found.accuracies) == {n.name for n in candidates(channels)}
    assert f"{name!r}, the best" in found.note


@pytest.mark.parametrize("default", ["imagenet", "cifar10"])
def test_the_familys_default_is_taken_inside_the_group(default: str) -> None:
    found = infer_normalization(network(NORMALIZATIONS["cifar10"], right=1), *samples(3), default, "rgb", "nchw")
    assert found.normalization.name == default
    assert "family's default" in found.note


def test_the_familys_default_does_not_win_from_outside() -> None:
    found = infer_normalization(network(NORMALIZATIONS["raw"]), *samples(3), "imagenet", "rgb", "nchw")
    assert found.normalization.name == "raw"


def test_no_clear_group() -> None:
    pixels, labels = samples(3)
    generator = np.random.default_rng(0)

    def guess(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return generator.random((len(batch), CLASSES), np.float32)

    with pytest.raises(UsageError, match=r"imagenet \d+\.\d%, cifar10 .* raw") as caught:
        infer_normalization(guess, pixels, labels, "imagenet", "rgb", "nchw")
    assert "--normalize" in str(caught.value.hint)
    # right with one, but the data's classes are in another order
    with pytest.raises(UsageError) as caught:
        infer_normalization(
            network(NORMALIZATIONS["unit"], right=1), pixels, (labels + 5) % CLASSES, None, "rgb", "nchw"
        )
    assert "order" in str(caught.value.hint)


def test_blue_first_is_found_out() -> None:
    """The label is in the last channel, as the network reads it; the others hold another one."""
    pixels, labels = samples(3)
    pixels = pixels.copy()
    pixels[:, 1:] = pixels[::-1, 1:]  # red has the label
    reads_last = network(NORMALIZATIONS["unit"])

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return reads_last(batch[:, ::-1])

    with pytest.raises(UsageError):
        infer_normalization(predict, pixels, labels, None, "rgb", "nchw")
    mixed = pixels.copy()
    mixed[::3] = mixed[::3, :1]  # grey samples, on which the order does not matter
    found = infer_normalization(predict, mixed, labels, None, None, "nchw")
    assert (found.normalization.name, found.normalization.channels) == ("unit", "bgr")
    assert "blue first" in found.note
    assert infer_normalization(predict, mixed, labels, None, "rgb", "nchw").normalization.channels == "rgb"


def test_a_part_of_the_samples_is_enough_where_it_is_clear() -> None:
    pixels, labels = samples(3)
    seen = 0
    known = network(NORMALIZATIONS["unit"], right=1)

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal seen
        seen += len(batch)
        return known(batch)

    pixels, labels = np.tile(pixels, (8, 1, 1, 1)), np.tile(labels, 8)
    found = infer_normalization(predict, pixels, labels, None, "rgb", "nchw")
    assert seen == 32 * len(found.accuracies)
    assert "on 32 samples" in found.note


def test_two_that_are_as_good_but_differ() -> None:
    """Right on other halves of the samples with either: neither wins."""
    pixels, labels = samples(1)
    answers = np.eye(CLASSES, dtype=np.float32)

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        top = float(batch.max())
        pixel = batch[:, 0, 0, 0] * 255 if top <= 1 else batch[:, 0, 0, 0]
        label = np.clip(np.rint((pixel - 12) / 25), 0, CLASSES - 1).astype(int)
        odd = label % 2 == 1
        if top > 10:  # raw
            return answers[np.where(odd, 0, label)]
        return answers[np.where(odd, label, 1)] if batch.min() >= 0 else answers[label * 0]

    with pytest.raises(UsageError, match=r"unit 50\.0%.*raw 50\.0%"):
        infer_normalization(predict, pixels, labels, None, "rgb", "nchw")


def test_scores_that_are_nan_are_wrong() -> None:
    pixels, labels = samples(1)
    known = network(parse_normalization("unit", 1), right=1)

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return known(batch) if batch.max() <= 1 and batch.min() >= 0 else np.full((len(batch), CLASSES), np.nan, "f4")

    found = infer_normalization(predict, pixels, labels, None, "rgb", "nchw")
    assert found.accuracies == {"mnist": 0, "unit": 1, "symmetric": 0, "raw": 0}
