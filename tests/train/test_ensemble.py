"""Several teachers: the mean of their answers, what they weigh, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import TEACHER
from scipy.stats import spearmanr
from torch import Tensor

from compressor.core import Normalization
from compressor.preprocessing import normalize, parse_normalization
from compressor.train.ensemble import Ensemble, renormalised, suitability
from compressor.train.predictor import as_scores

LABELS = np.arange(60) % 3


def answering(scores: Any) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.as_tensor(scores, dtype=torch.float32)[: len(images)]


def scores(noise: float, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    return np.eye(3)[LABELS] * 4 + noise * generator.standard_normal((60, 3))


def test_answers_are_the_mean_of_probabilities() -> None:
    one, other, images = scores(1.0, 0), scores(1.0, 1), torch.zeros(60, 1, 2, 2)
    both = Ensemble.of([answering(one), answering(other)], "mean", images, LABELS)
    assert both.weights == (0.5, 0.5)
    wanted = sum(torch.softmax(torch.as_tensor(each, dtype=torch.float32), 1) for each in (one, other)) / 2
    torch.testing.assert_close(both(images).exp(), wanted)
    alone = Ensemble((answering(one), answering(other)), (0.0, 1.0))
    torch.testing.assert_close(alone(images).exp(), torch.softmax(torch.as_tensor(other, dtype=torch.float32), 1))


def test_suitability_is_the_rank_correlation_of_pairs() -> None:
    features, pairs = scores(2.0, 0), [(i, j) for i in range(60) for j in range(i + 1, 60)]
    apart = [1 - np.corrcoef(features[i], features[j])[0, 1] for i, j in pairs]
    differ = [float(LABELS[i] != LABELS[j]) for i, j in pairs]
    assert suitability(features, LABELS) == pytest.approx(spearmanr(apart, differ).statistic)
    assert suitability(scores(0.1, 0), LABELS) > suitability(features, LABELS) > 0.1
    assert suitability(np.ones((60, 3)), LABELS) == suitability(features, np.zeros(60, int)) == 0


def test_the_better_teacher_weighs_more() -> None:
    images = torch.zeros(60, 1, 2, 2)
    teachers = [answering(scores(6.0, 0)), answering(scores(0.5, 1)), answering(np.zeros((60, 3)))]
    weights = Ensemble.of(teachers, "weighted", images, LABELS).weights
    assert sum(weights) == pytest.approx(1)
    assert weights[1] > weights[0] > weights[2] == 0
    assert Ensemble.of(teachers, "nearest", images, LABELS).weights == (0, 1, 0)
    assert Ensemble.of(teachers[2:], "weighted", images, LABELS).weights == (1,)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("name", ["imagenet", "raw", "symmetric"])
def test_a_teacher_gets_images_of_its_own_normalisation(name: str, channels: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 5), np.uint8)
    own, seen = parse_normalization(name, 3), list[Tensor]()
    own = Normalization(own.name, own.scale, own.mean, own.std, channels)
    given = parse_normalization("cifar10", 3)

    def teach(images: Tensor) -> Tensor:
        seen.append(images)
        return images

    renormalised(teach, own, given)(torch.from_numpy(normalize(pixels, given)))
    torch.testing.assert_close(seen[0], torch.from_numpy(normalize(pixels, own)), rtol=1e-4, atol=1e-3)


def test_probabilities_are_taken_as_such() -> None:
    scores = torch.tensor([[2.0, 0.5, 1.0], [0.2, 0.3, 0.9]])
    shares = as_scores(lambda images: torch.softmax(scores, 1))(scores)
    torch.testing.assert_close(torch.softmax(shares, 1), torch.softmax(scores, 1))
    assert torch.equal(as_scores(lambda images: scores)(scores), scores)
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(as_scores(lambda images: images)(images), images)


@pytest.mark.parametrize(
    ("profile", "further", "says"),
    [
        ("ptq", "twin", "--teacher is for profiles that train a student"),
        ("balanced", "none.pt", "none.pt"),
        ("balanced", "other", "other.onnx: the model tells 12 classes apart, the data has 10"),
    ],
)
def test_teachers_that_do_not_match_are_refused(
    compress: Any, tmp_path: Path, profile: str, further: str, says: str
) -> None:
    path = {"twin": TEACHER, "other": tmp_path / "other.onnx"}.get(further, tmp_path / further)
    if further == "other":
        twelve = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 12))
        torch.onnx.export(twelve, torch.zeros(1, 1, 32, 32), path, dynamo=False)
    got = compress(
        "run", TEACHER, "--teacher", path, "--data", "builtin:digits", "--target", "host", "--profile", profile,
        "-o", tmp_path / "run",
    )  # fmt: skip
    assert got.code == 2
    assert says in " ".join(got.err.split())
    assert not (tmp_path / "run").exists()


def test_losses_on_features_are_for_one_teacher(compress: Any, tmp_path: Path) -> None:
    got = compress(
        "run", TEACHER, "--teacher", TEACHER, "--data", "builtin:digits", "--target", "host", "--profile", "balanced",
        "--set", 'distill.losses=[{loss="hint"}]', "-o", tmp_path / "run",
    )  # fmt: skip
    assert got.code == 2
    assert "several teachers only answer" in got.err
