"""Methods of distillation by name, and the choice among them by short trainings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor import catalog
from compressor.core import (
    Artifact,
    Context,
    InputSpec,
    Model,
    PassSpec,
    PlanContext,
    Profile,
    TorchSource,
    VerificationFailed,
    image_signature,
)
from compressor.data import load_data
from compressor.frontend import save_weights
from compressor.losses import objective
from compressor.passes.distill import Distill
from compressor.preprocessing import parse_normalization
from compressor.tasks.classification import Classification
from compressor.train.halving import halve
from compressor.train.methods import METHODS

INPUT = InputSpec(1, 16, 16)
HOST = catalog.find_target("host")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_whole_recipe(name: str) -> None:
    config = Distill(minutes=7.0, lr=0.3).with_method(name)
    assert config.method == ""
    assert (config.minutes, config.lr, config.init) == (7.0, 0.3, "teacher")
    assert objective(config.losses).terms
    assert not Distill(method=name).check(PlanContext(HOST, "labels", True, True))


@pytest.mark.parametrize(
    ("settings", "targets", "says"),
    [
        ({"method": "kdd"}, "labels", "distill.method = 'kdd' is not known: take auto or one of kd"),
        ({"method": "kd"}, "images", "is for labelled images"),
        ({"method": "auto", "method_minutes": 0.0}, "labels", "distill.method_minutes = 0.0"),
        ({"method": "cutmix", "cutmix": 0.5}, "labels", "sets distill.cutmix, which is given too"),
        ({"method": "dist", "losses": ({"loss": "hint"},)}, "labels", "sets distill.losses, which is given too"),
    ],
)
def test_methods_that_cannot_be(settings: dict[str, Any], targets: str, says: str) -> None:
    problems = Distill(**settings).check(PlanContext(HOST, targets, True, True))
    assert any(says in problem for problem in problems)
    (inside,) = Distill(method="auto").problems("quantize.distill", PlanContext(HOST, "labels", True, True))
    assert "is for the distill pass" in inside


def test_methods_that_want_all_scores_are_for_few_classes() -> None:
    suited = {name for name in METHODS if Distill().with_method(name).suits(1000)}
    assert set(METHODS) - suited == {"standardised", "meal"}
    assert all(Distill().with_method(name).suits(128) for name in METHODS)


def test_the_worse_half_stops_after_each_round() -> None:
    skill, asked = [0.3, 0.9, 0.5, 0.7, 0.1], []

    def judge(index: int, number: int, steps: Sequence[int]) -> float:
        asked.append((index, number, tuple(steps)))
        if index == 4:
            raise VerificationFailed("training diverged")
        return skill[index] + (0.3 if (index, number) == (3, 2) else 0)

    halved = halve(5, (7,), lambda alive: 10 * len(alive), judge)
    assert halved.steps == (7, 30, 20)
    assert [list(each) for each in halved.reached] == [[1, 3, 2, 0, 4], [1, 3, 2], [3, 1]]
    assert halved.order == (3, 1, 2, 0, 4)
    assert halved.reached[0][4] == 0
    assert asked[-1] == (3, 2, (7, 30, 20))


def model(folder: Path, seed: int, widths: tuple[int, ...]) -> Model:
    torch.manual_seed(seed)
    settings = {"depths": [1, 1, 1], "widths": list(widths), "outputs": 10, "channels": 1}
    module = catalog.make(catalog.find("models", "cifar-resnet"), settings, "test").build()
    sha256 = save_weights(module.state_dict(), path := folder / f"{seed}.safetensors")
    signature, sizes = image_signature(INPUT, 10)
    source, scaling = TorchSource("cifar-resnet", settings, path), parse_normalization("unit", 1)
    return Model(source, None, sha256, 10_000, 10_000, signature, sizes, normalization=scaling)


@pytest.mark.slow
def test_the_best_of_short_trainings_is_taken(tmp_path: Path) -> None:
    source: Any = load_data("builtin:digits")
    data = source.prepare(INPUT, parse_normalization("unit", 1), "input")
    known: dict[str, Any] = {}

    def memo(name: str, key: Any, compute: Callable[[], Any]) -> Any:
        return known.setdefault(json.dumps([name, key]), json.loads(json.dumps(compute())))

    def kept(name: str, key: Any) -> Path:
        (folder := tmp_path / f"{name}-{abs(hash(json.dumps(key)))}").mkdir(exist_ok=True)
        return folder

    profile = Profile("p", "p", (PassSpec("distill"),))
    task = Classification(tuple(map(str, range(10))))
    context = Context(HOST, profile, task, data, tmp_path, 0, "cpu", lambda *_: None, memo, kept)
    artifact = Artifact(model(tmp_path, 0, (8, 8, 16)), student=model(tmp_path, 1, (4, 8, 8)))
    result = Distill(method="auto", method_minutes=0.02, steps=2, views=1).run(artifact, context)
    told = result.metrics["methods"]
    assert [len(each["top1"]) for each in told["rounds"]] == [9, 5, 3, 2]
    assert told["chosen"] == result.pinned["method"] == next(iter(told["rounds"][-1]["top1"]))
    assert result.metrics["losses"] == [dict(each) for each in METHODS[told["chosen"]]["losses"]]
    assert result.artifact.student is not None
    assert result.artifact.student.sha256 != artifact.student.sha256
