"""The real teachers on real images, judged a second time by code that is not the compiler's."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from places import ROOT
from runs import QUICK

pytestmark = [pytest.mark.slow, pytest.mark.shared]


Report = dict[str, Any]


@pytest.fixture
def compress(warm: list[str]) -> Callable[..., Report]:
    def run(*arguments: object) -> Report:
        command = [*warm, "run", *map(str, arguments), *QUICK, "--json"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1800)
        assert done.returncode == 0, done.stderr
        report: Report = json.loads(done.stdout)
        return report

    return run


def some(images: Path, folder: Path, every: int) -> Path:
    """A zip of each so many of a zip's images."""
    with zipfile.ZipFile(images) as whole, zipfile.ZipFile(folder / "some.zip", "w") as part:
        for name in sorted(n for n in whole.namelist() if not n.endswith("/"))[::every]:
            part.writestr(name, whole.read(name))
    return folder / "some.zip"


def accuracy(bundle: Path, images: Path, every: int = 1) -> float:
    """Of a bundle's model on each so many images of a zip of class folders: Pillow, NumPy and ONNX Runtime only."""
    entry = json.loads((bundle / "manifest.json").read_text())["input"]
    mean, std = (np.array(entry[key], np.float32)[:, None, None] for key in ("mean", "std"))
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    with zipfile.ZipFile(images) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith((".png", ".jpg", ".jpeg")))[::every]
        classes = sorted({Path(n).parent.name for n in names})
        right = 0
        for start in range(0, len(names), 500):
            some = names[start : start + 500]
            pixels = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB"), np.float32) for n in some]
            batch = np.stack(pixels).transpose(0, 3, 1, 2) / 255 * entry["range"][1]
            (scores,) = session.run(None, {"input": ((batch - mean) / std).astype(np.float32)})
            labels = [classes.index(Path(n).parent.name) for n in some]
            right += int((scores.argmax(1) == np.array(labels)).sum())
    return right / len(names)


def test_resnet56_in_int8_keeps_its_accuracy(
    compress: Callable[..., Report], shared_data: Path, tmp_path: Path
) -> None:
    images = some(shared_data / "cifar10/test.zip", tmp_path, 4)
    report = compress(
        shared_data / "teachers/resnet56_cifar10.pt", "--target", "host", "--profile", "ptq",
        "--data", shared_data / "cifar10", "--eval", images, "-o", tmp_path / "run",
    )  # fmt: skip
    teacher, result = report["teacher"]["metric"], report["result"]["metric"]
    assert teacher["name"] == result["name"] == "top1"
    assert teacher["samples"] == result["samples"] == 2_500
    assert teacher["value"] == pytest.approx(0.890, abs=0.01)
    assert result["value"] >= teacher["value"] - 0.005
    assert accuracy(tmp_path / "run" / "bundle", images) == pytest.approx(result["value"], abs=0.003)
    assert report["result"]["bytes"] == (tmp_path / "run/bundle/model.onnx").stat().st_size
    assert report["result"]["bytes"] * 3 <= report["teacher"]["bytes"]


def test_resnet20_from_a_nested_checkpoint(compress: Callable[..., Report], shared_data: Path, tmp_path: Path) -> None:
    report = compress(
        shared_data / "teachers/resnet20_cifar10_nested.th", "--target", "host", "--profile", "ptq",
        "--data", shared_data / "cifar10", "--set", "measure.samples=2000", "-o", tmp_path / "run",
    )  # fmt: skip
    teacher, result = report["teacher"]["metric"], report["result"]["metric"]
    assert teacher["samples"] == 2_000
    assert teacher["value"] == pytest.approx(0.81, abs=0.02)
    assert result["value"] == pytest.approx(teacher["value"], abs=0.01)


def test_resnet56_without_data(compress: Callable[..., Report], shared_data: Path, tmp_path: Path) -> None:
    teacher = shared_data / "teachers/resnet56_cifar10.pt"
    report = compress(teacher, "--target", "host", "--profile", "float", "-o", tmp_path / "run")
    assert report["result"]["metric"] is None
    assert report["why_no_metric"]
    assert report["result"]["latency_ms"]["median"] > 0
    found = accuracy(tmp_path / "run" / "bundle", shared_data / "cifar10/test.zip", every=5)
    assert found == pytest.approx(0.890, abs=0.015)


def luma(pixels: np.ndarray) -> np.ndarray:
    """BT.601 of H x W x C in 0 to 255, in floats, as super-resolution is judged on."""
    return np.asarray(16 + (pixels.astype(np.float64) @ [65.481, 128.553, 24.966]) / 255)


def test_imdn_x4_in_int8_keeps_its_decibels(compress: Callable[..., Report], shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for photo in sorted((shared_data / "photos").glob("*.png"))[::5]:
        shutil.copy(photo, tmp_path / "photos")
    report = compress(
        shared_data / "teachers/IMDN_x4.pth", "--target", "host", "--profile", "ptq", "--data", tmp_path / "photos",
        "--eval", shared_data / "set5", "-o", tmp_path / "run",
    )  # fmt: skip
    teacher, result = report["teacher"]["metric"], report["result"]["metric"]
    assert teacher["value"] == pytest.approx(32.21, abs=0.01)
    assert result["value"] >= teacher["value"] - 0.15
    session = onnxruntime.InferenceSession(str(tmp_path / "run/bundle/model.onnx"), providers=["CPUExecutionProvider"])
    found = []
    for small in sorted((shared_data / "set5/LR_x4").iterdir()):
        large = shared_data / "set5/HR" / small.name
        pixels = np.asarray(Image.open(small).convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
        made = np.rint(session.run(None, {"input": pixels})[0][0].clip(0, 1) * 255).transpose(1, 2, 0)
        wanted = np.asarray(Image.open(large).convert("RGB"))[: made.shape[0], : made.shape[1]]
        error = (luma(made) - luma(wanted))[4:-4, 4:-4]
        found.append(10 * np.log10(255**2 / np.mean(error**2)))
    assert len(found) == 5
    # Pixels divided by 255, and not multiplied by its inverse, fall on other sides of some integers' edges.
    assert np.mean(found) == pytest.approx(result["value"], abs=0.02)
