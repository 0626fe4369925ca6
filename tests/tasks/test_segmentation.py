"""Segmentation: the metric against literal loops and scikit-learn, answers of every form, and a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import jaccard_score

from compressor.core import InputSpec, UsageError, image_signature
from compressor.data import MaskSource, load_data
from compressor.preprocessing import parse_normalization
from compressor.tasks._answers import MaskAnswer
from compressor.tasks.segmentation import Segmentation, confusion, ious

CLASSES = ("road", "car", "tree")


def literal_ious(truths: list[Any], predictions: list[Any], classes: int) -> list[float]:
    """Pixel by pixel."""
    found = []
    for number in range(classes):
        both = either = present = 0
        for truth, predicted in zip(truths, predictions, strict=True):
            for y in range(truth.shape[0]):
                for x in range(truth.shape[1]):
                    if truth[y, x] == 255:
                        continue
                    is_true, is_predicted = truth[y, x] == number, predicted[y, x] == number
                    both += is_true and is_predicted
                    either += is_true or is_predicted
                    present += is_true
        found.append(both / either if present else math.nan)
    return found


def test_iou_is_that_of_literal_loops_and_of_a_library() -> None:
    generator = np.random.default_rng(0)
    truths = [generator.choice(np.array([0, 1, 2, 255], np.uint8), (9, 7)) for _ in range(3)]
    predictions = [np.where(generator.random((9, 7)) < 0.6, t % 3, generator.integers(0, 3, (9, 7))) for t in truths]
    table = sum(confusion(t, p, 4) for t, p in zip(truths, predictions, strict=True))
    assert ious(table)[:3] == pytest.approx(literal_ious(truths, predictions, 4)[:3])
    assert math.isnan(ious(table)[3]), "no mask has it"
    flat = [np.concatenate([each.flatten() for each in part]) for part in (truths, predictions)]
    counted = flat[0] != 255
    assert ious(table)[:3] == pytest.approx(jaccard_score(flat[0][counted], flat[1][counted], average=None))


def test_an_answer_that_is_no_class_is_wrong() -> None:
    truth = np.array([[0, 1], [255, 1]], np.uint8)
    assert confusion(truth, np.array([[7, 1], [7, -1]]), 2).tolist() == [[0, 1], [1, 1]]


def test_scores_are_resized_as_torch_does() -> None:
    scores = np.random.default_rng(0).standard_normal((2, 3, 5, 4)).astype(np.float32)
    for height, width in ((5, 4), (13, 9), (3, 3), (20, 4)):
        wanted = F.interpolate(torch.from_numpy(scores), (height, width), mode="bilinear").argmax(1).numpy()
        answer = MaskAnswer.of({"x": scores}, 3)
        assert answer == MaskAnswer(0, "nchw", None)
        found = [answer.classes(each, height, width) for each in answer.scores({"x": scores})]
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("outputs", "classes", "expected"),
    [
        ({"a": np.zeros((1, 2)), "b": np.zeros((1, 3, 4, 4))}, 3, MaskAnswer(1, "nchw")),
        ({"a": np.zeros((1, 4, 4, 3))}, 3, MaskAnswer(0, "nhwc")),
        ({"a": np.full((1, 1, 4, 4), 0.4)}, 2, MaskAnswer(0, "nchw", 0.5)),
        ({"a": np.full((1, 4, 4, 1), -2.0)}, 2, MaskAnswer(0, "nhwc", 0.0)),
        ({"a": np.zeros((1, 4, 4), np.int64)}, 7, MaskAnswer(0, "numbers")),
        ({"a": np.zeros((1, 4, 4), np.float32)}, 7, None),
        ({"a": np.zeros((1, 5, 4, 4))}, 3, None),
        ({"a": np.zeros((1, 3, 1, 1))}, 3, None),
    ],
)
def test_answers_of_every_form(outputs: Mapping[str, Any], classes: int, expected: MaskAnswer | None) -> None:
    assert MaskAnswer.of(outputs, classes) == expected


def test_one_score_and_class_numbers_are_read() -> None:
    one = MaskAnswer(0, "nchw", 0.5)
    assert one.classes(np.array([[[0.2, 0.8]]], np.float32), 1, 2).tolist() == [[0, 1]]
    numbers = MaskAnswer(0, "numbers")
    scores = numbers.scores({"x": np.array([[[3, 5], [7, 9]]])})
    assert numbers.classes(scores[0], 4, 2).tolist() == [[3, 5], [3, 5], [7, 9], [7, 9]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured fields, which a few convolutions tell apart; masks are twice as large as the network's input."""
    root = tmp_path_factory.mktemp("scenes")
    colours = np.array([[60, 60, 60], [200, 40, 40], [40, 160, 40]], np.uint8)
    for half, count in (("train", 24), ("test", 12)):
        for kind in ("images", "masks"):
            (root / half / kind).mkdir(parents=True)
        for number in range(count):
            generator = np.random.default_rng([len(half), number])
            mask = np.kron(generator.integers(0, 3, (4, 4)), np.ones((16, 16), np.int64)).astype(np.uint8)
            pixels = colours[mask].astype(int) + generator.integers(-30, 30, (64, 64, 3))
            mask[:2] = 255
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / half / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / half / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network for 32 x 32 px that answers at half of that: nearest colour, by two convolutions."""
    colours = torch.tensor([[60, 60, 60], [200, 40, 40], [40, 160, 40]]) / 255
    first, last = torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Conv2d(8, 3, 1)
    with torch.no_grad():
        first.weight.zero_()
        first.bias.zero_()
        for channel in range(3):
            first.weight[channel, channel, 1, 1] = 1
        last.weight.zero_()
        last.weight[:, :3, 0, 0] = 2 * colours
        last.bias.copy_(-(colours**2).sum(1))
    path = tmp_path_factory.mktemp("network") / "segmenter.onnx"
    made = torch.nn.Sequential(first, torch.nn.ReLU(), last).eval()
    batch = torch.export.Dim("n")
    torch.onnx.export(made, (torch.zeros(2, 3, 32, 32),), path, dynamic_shapes=({0: batch},), verbose=False)
    return path


def test_the_metric_is_that_of_the_masks_own_size(scenes: Path) -> None:
    source = load_data(str(scenes))
    assert isinstance(source, MaskSource)
    split = source.prepare(InputSpec(3, 32, 32), parse_normalization("unit", 3), "input").evaluate
    generator = np.random.default_rng(0)
    answers = [generator.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(len(split))]

    class Guessing:
        signature, _ = image_signature(InputSpec(3, 32, 32))

        def __init__(self) -> None:
            self.left = iter(answers)

        def __call__(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"scores": next(self.left)}

    task = Segmentation(CLASSES)
    metric, each = task.evaluate(Guessing(), split, 1, lambda *_: None)  # type: ignore[arg-type]
    sized = [F.interpolate(torch.from_numpy(a), (64, 64), mode="bilinear").argmax(1)[0].numpy() for a in answers]
    truths = [split.mask(number) for number in range(len(split))]
    wanted = literal_ious(truths, sized, 3)
    assert metric.value == pytest.approx(np.mean(wanted))
    assert [metric.also[f"iou {name}"] for name in CLASSES] == pytest.approx(wanted)
    right = [(t == p)[t != 255].mean() for t, p in zip(truths, sized, strict=True)]
    assert each == pytest.approx(right)
    assert metric.also["pixel_accuracy"] == pytest.approx(np.mean(right))


def test_masks_of_void_alone_judge_nothing(scenes: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number in range(2):
            (tmp_path / kind / f"{number}.png").write_bytes((scenes / "test" / kind / f"{number}.png").read_bytes())
    for number in range(2):
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    source = load_data(str(scenes), evaluate=str(tmp_path))
    assert isinstance(source, MaskSource)
    split = source.prepare(InputSpec(3, 32, 32), parse_normalization("unit", 3), "input").evaluate

    class Blank:
        signature, _ = image_signature(InputSpec(3, 32, 32))

        def __call__(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"scores": np.zeros((1, 3, 8, 8), np.float32)}

    with pytest.raises(UsageError, match="all are void"):
        Segmentation(CLASSES).evaluate(Blank(), split, 1, lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_segmenter_is_quantised_and_judged_by_its_masks(
    compress: Any, scenes: Path, network: Path, tmp_path: Path
) -> None:
    common = ("run", network, "--data", scenes, "--target", "host", "--normalize", "unit")
    ran = compress(*common, "--set", "measure.seconds=1", "-o", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert (report["task"], report["profile"]) == ("segmentation", "ptq")
    before, after = (report[side]["metric"] for side in ("teacher", "result"))
    assert (before["name"], before["samples"]) == ("miou", 12)
    assert before["value"] > 0.9
    assert after["value"] > before["value"] - 0.01
    (first, *_) = report["samples"]["shown"]
    assert [entry["caption"] for entry in first["images"]] == ["image", "truth", "teacher", "result"]
    manifest = json.loads((tmp_path / "run" / "bundle" / "manifest.json").read_text())
    assert manifest["task"]["classes"] == list(CLASSES)
    assert compress("verify", tmp_path / "run" / "bundle").code == 0
    gated = compress("gate", tmp_path / "run", "--eval", scenes, "--max-drop", "1.0", "--against", network)
    assert gated.code in (0, 3), gated.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--profile", "balanced"), "learns from images of classes or photographs, not from masks"),
        (("--task", "classification"), "--task classification"),
    ],
)
def test_what_masks_are_not_for(
    compress: Any, scenes: Path, network: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    got = compress(
        "run", network, "--data", scenes, "--target", "host", "--normalize", "unit", *arguments, "-o", tmp_path / "run"
    )  # fmt: skip
    assert got.code == 2
    assert says in " ".join(got.err.split())


def test_another_number_of_classes_is_refused(compress: Any, network: Path, scenes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for kind in ("images", "masks"):
        (other / kind).mkdir(parents=True)
        for number in range(4):
            (other / kind / f"{number}.png").write_bytes((scenes / "test" / kind / f"{number}.png").read_bytes())
    (other / "classes.txt").write_text("a\nb\nc\nd\n")
    got = compress("run", network, "--data", other, "--target", "host", "--normalize", "unit", "-o", tmp_path / "run")
    assert got.code == 2
    assert "and the masks have 4 classes" in " ".join(got.err.split())
