"""The main job on the demo's teacher: from the file to a verified bundle, and every way that it is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
TEACHER = ROOT / "examples" / "digits" / "teacher.pt"


def compress(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "compressor.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    done = compress("run", TEACHER, "-o", folder, "--json", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
    return folder


@pytest.fixture(scope="module")
def report(finished: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((finished / "report.json").read_text())
    return read


def test_everything_promised_is_left_behind(finished: Path) -> None:
    assert {"report.json", "report.html", "resolved.toml", "bundle", "logs"} <= {p.name for p in finished.iterdir()}
    assert {p.name for p in (finished / "bundle").iterdir()} == {"model.onnx", "manifest.json", "golden.npz", "run.py"}


def test_the_report_tells_what_was_gained(report: dict[str, Any]) -> None:
    assert report["teacher"]["metric"]["samples"] == 360
    assert report["result"]["metric"]["value"] > report["teacher"]["metric"]["value"] - 0.02
    assert report["result"]["bytes"] < report["teacher"]["bytes"] / 3
    assert [p["kind"] for p in report["passes"]] == ["lower", "quantize", "build", "measure", "verify"]
    latency = report["result"]["latency_ms"]
    assert latency["samples"] == sum(map(len, report["samples_ms"]["result"])) == 480
    assert latency["median"] == pytest.approx(np.median(report["samples_ms"]["result"]))
    assert report["normalization"]["name"] == "symmetric"


def test_the_ladder_was_climbed(report: dict[str, Any]) -> None:
    export, quantised = report["passes"][-1]["metrics"]["ladder"]
    assert (export["from"], export["to"]) == ("torch", "fp32")
    assert export["relative_error"] < 1e-4
    assert (quantised["from"], quantised["to"]) == ("fp32", "int8")
    assert quantised["agreement"] > 0.95


def test_the_result_is_int8_with_nothing_left_in_float(finished: Path) -> None:
    import onnx

    graph = onnx.load(str(finished / "bundle" / "model.onnx")).graph
    integers = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) > 1}
    convolutions = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(integers) == len(convolutions)
    assert not any(n.op_type == "Relu" for n in graph.node)  # the integers' own clamping does it


def test_the_bundle_runs_without_us(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(finished / "bundle", folder)
    runner = [sys.executable, str(folder / "run.py")]
    checked = subprocess.run([*runner, "--verify"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "verified\n")
    np.save(tmp_path / "digit.npy", np.zeros((32, 32, 1), np.uint8))
    told = subprocess.run([*runner, str(tmp_path / "digit.npy")], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert len(json.loads(told.stdout)) == 5
    np.save(tmp_path / "wrong.npy", np.zeros((9, 9, 1), np.uint8))
    wrong = subprocess.run([*runner, str(tmp_path / "wrong.npy")], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "run.py"])
def test_a_changed_bundle_is_found_out(finished: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(finished / "bundle", folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    done = compress("verify", folder)
    assert done.returncode == 6
    assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_the_same_command_is_answered_from_the_cache(finished: Path) -> None:
    before = (finished / "bundle" / "model.onnx").read_bytes()
    done = compress("run", TEACHER, "-o", finished, "--json", cwd=finished.parent)
    assert done.returncode == 0, done.stderr
    passes = json.loads(done.stdout)["passes"]
    assert [p["kind"] for p in passes if not p["cached"]] == ["measure"]
    assert (finished / "bundle" / "model.onnx").read_bytes() == before


def test_other_inputs_are_refused_in_the_same_folder(finished: Path) -> None:
    done = compress("run", TEACHER, "-o", finished, "--seed", 1, cwd=finished.parent)
    assert done.returncode == 2
    assert "seed changed" in done.stderr
    assert "--fresh" in done.stderr


def test_the_resolved_plan_makes_the_same_model_elsewhere(finished: Path, tmp_path: Path) -> None:
    done = compress("run", TEACHER, "--profile", finished / "resolved.toml", "-o", tmp_path / "again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = (tmp_path / "again" / "bundle" / "model.onnx").read_bytes()
    assert again == (finished / "bundle" / "model.onnx").read_bytes()


@pytest.mark.parametrize("delay", [4.0, 7.0])
def test_a_killed_run_goes_on(finished: Path, tmp_path: Path, delay: float) -> None:
    command = [sys.executable, "-m", "compressor.cli", "run", str(TEACHER), "-o", str(tmp_path / "out")]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=tmp_path)
    time.sleep(delay)
    killed.kill()
    killed.wait()
    done = compress("run", TEACHER, "-o", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "out" / "bundle" / "model.onnx").read_bytes()
    assert made == (finished / "bundle" / "model.onnx").read_bytes()


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "compressor.cli", "run", str(TEACHER), "-o", str(tmp_path / "out")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path, text=True)
    time.sleep(5)
    os.kill(run.pid, signal.SIGINT)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in told


def test_a_missed_budget_keeps_the_bundle(finished: Path) -> None:
    done = compress("run", TEACHER, "-o", finished, "--budget", "bytes=10k", "--json", cwd=finished.parent)
    assert done.returncode == 3
    assert "bytes=10k" in done.stderr
    assert (finished / "bundle" / "model.onnx").is_file()


def test_without_data_a_float_bundle(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    shutil.copyfile(TEACHER, model)  # away from its compress.toml
    done = compress(
        "run", model, "--target", "host", "--normalize", "symmetric", "--input", "1x32x32", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["profile"] == "float"
    assert told["result"]["metric"] is None
    assert told["why_no_metric"] == "no data was given"
    assert told["result"]["precision"] == "fp32"


def test_a_board_is_left_its_engine_to_do(tmp_path: Path) -> None:
    done = compress("run", TEACHER, "--target", "raspberry-pi-5", "-o", tmp_path / "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["engine"] == "pending"
    assert "run.py --verify" in told["todo"]
    assert told["result"]["latency_ms"] is None
    assert "aarch64" in told["why_no_latency"]
    assert told["result"]["metric"]["value"] > 0.97


OWN = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1), nn.Hardswish(), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
        )
"""


def test_an_own_architecture_on_own_images(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "own.py").write_text(OWN)
    rng = np.random.default_rng(0)
    for label, bright in (("dark", 0), ("light", 155)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(15):
            pixels = rng.integers(bright, bright + 100, (20, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    script = "import torch; from own import Net; torch.manual_seed(0); torch.save(Net().state_dict(), 'own.pt')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    done = compress(
        "run", "own.pt", "--arch", "own:Net", "--data", "images", "--normalize", "unit", "--target", "host",
        "-o", "out", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["input"] == [3, 20, 24]
    assert told["teacher"]["metric"]["samples"] == 6
    assert told["passes"][-1]["metrics"]["ladder"][0]["relative_error"] < 1e-4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent.pt", "--target", "host"], 2, "there is no file"),
        ([".", "--target", "host"], 2, "directory"),
        (["wrong.pt", "--target", "host"], 2, "--arch"),
        (["text.pt", "--target", "host"], 2, "text.pt"),
        ([TEACHER, "--target", "hots"], 2, "did you mean 'host'"),
        ([TEACHER, "--profile", "ptqq"], 2, "did you mean 'ptq'"),
        ([TEACHER, "--bugdet", "x"], 2, "--bugdet"),
        ([TEACHER, "--budget", "latency=fast"], 2, "latency"),
        ([TEACHER, "--input", "32"], 2, "3x224x224"),
        ([TEACHER, "--set", "quantize.sample=3"], 2, "did you mean 'samples'"),
        ([TEACHER, "--set", "quantize.samples=many"], 2, "samples"),
        ([TEACHER, "--normalize", "imagnet"], 2, "imagenet"),
        ([TEACHER, "--data", "empty"], 2, "empty"),
        ([TEACHER, "--data", "two"], 2, "10"),
        ([TEACHER, "-o", "wrong.pt"], 2, "wrong.pt"),
        ([TEACHER, "-o", "two"], 2, "something other than a run"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, arguments: list[object], code: int, words: str) -> None:
    import torch
    from PIL import Image

    torch.save({"encoder.weight": torch.zeros(3, 3)}, tmp_path / "wrong.pt")
    (tmp_path / "text.pt").write_text("not a model")
    (tmp_path / "empty").mkdir()
    for label in ("a", "b"):
        (tmp_path / "two" / label).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (32, 32), i * 20 + ord(label)).save(tmp_path / "two" / label / f"{i}.png")
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    done = compress("run", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert "mend:" in done.stderr
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["--help"], ["targets"], ["profiles"], ["targets", "host"]])
def test_short_answers_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys; from compressor.cli import app\n"
        f"try: app({arguments!r}, standalone_mode=False)\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'nncf', 'numpy', 'PIL', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_planning_imports_nothing_heavy() -> None:
    script = (
        "import sys; from compressor import catalog\n"
        "[catalog.find('passes', n) for n in catalog.names('passes')]\n"
        "import compressor.plan\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'nncf'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
