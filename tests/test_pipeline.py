"""Whole runs: what they leave behind, what they answer from the cache, and how they are stopped."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from places import ROOT, TEACHER
from runs import QUICK, Run

from compressor.machine import machine

PASSES = ["lower", "quantize", "build", "measure", "verify"]
Compress = Callable[..., Any]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "compressor", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def model_bytes(folder: Path) -> bytes:
    return (folder / "bundle" / "model.onnx").read_bytes()


def report_of(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


# -- the built-in digits, once ------------------------------------------------------------------


def test_a_run_leaves_what_is_promised(digits_ptq: Run) -> None:
    folder = digits_ptq.folder
    for name in (
        "report.json", "report.html", "resolved.toml", "logs/run.log",
        "bundle/model.onnx", "bundle/manifest.json", "bundle/golden.npz", "bundle/run.py",
    ):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    assert json.loads(digits_ptq.out) == report_of(folder), "stdout is exactly the report"
    assert not re.search(r"\.partial|\.bundle-", " ".join(tree(folder)))
    assert [p.name for p in folder.parent.iterdir()] == ["run"], "and nothing beside the run's folder"


def test_the_graph_that_found_the_normalisation_is_the_one_that_is_lowered(digits_ptq: Run) -> None:
    (kept,) = digits_ptq.folder.glob("cache/teacher-export-*/model.onnx")
    (lowered,) = digits_ptq.folder.glob("cache/lower-*/teacher.onnx")
    assert kept.read_bytes() == lowered.read_bytes()


def test_the_run_gained_what_it_should(digits_ptq: Run) -> None:
    report = report_of(digits_ptq.folder)
    assert report["normalization"]["name"] == "symmetric"
    assert report["teacher"]["metric"]["samples"] == report["result"]["metric"]["samples"] == 360
    assert report["result"]["metric"]["value"] > report["teacher"]["metric"]["value"] - 0.02
    assert report["result"]["bytes"] < report["teacher"]["bytes"] / 3
    export, quantised = report["passes"][-1]["metrics"]["ladder"]
    assert (export["from"], export["to"], quantised["to"]) == ("torch", "fp32", "int8")
    assert export["relative_error"] < 1e-4
    assert quantised["agreement"] > 0.95


def test_the_log_has_one_short_line_a_pass(digits_ptq: Run) -> None:
    lines = [
        line
        for line in (digits_ptq.folder / "logs" / "run.log").read_text().splitlines()
        if "compressor.pipeline" in line
    ]
    assert [line.split(": ")[1] for line in lines] == PASSES
    assert all(len(line) < 260 for line in lines), "200 characters after time and logger"


def test_every_layer_of_the_result_is_int8(digits_ptq: Run) -> None:
    graph = onnx.load(str(digits_ptq.folder / "bundle" / "model.onnx")).graph
    integers = [i for i in graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) > 1]
    ops = [node.op_type for node in graph.node]
    assert len(integers) == ops.count("Conv") + ops.count("Gemm") == 12
    assert "Relu" not in ops, "the integers' own clamping does it"


def test_progress_is_on_stderr(digits_ptq: Run) -> None:
    for number, kind in enumerate(PASSES, start=1):
        assert f"[{number}/5] {kind}" in digits_ptq.err
    assert digits_ptq.out.startswith("{")


def test_the_report_has_the_documented_schema(digits_ptq: Run) -> None:
    folder = digits_ptq.folder
    report = report_of(folder)
    assert report["schema_version"] == 2
    assert report["command"][:2] == ["compress", "run"]
    assert {"torch", "onnx", "onnxruntime", "numpy", "compressor"} <= report["versions"].keys()
    assert (report["seed"], report["target"], report["profile"], report["status"]) == (0, "host", "ptq", "ok")
    assert report["environment"]["cpu"] == machine().cpu
    for side in (report["teacher"], report["result"]):
        assert isinstance(side["params"], int)
        assert isinstance(side["macs"], int)
        assert 0 < side["params"] < side["macs"]
        metric, latency = side["metric"], side["latency_ms"]
        assert metric["name"] == "top1"
        assert 0.9 < metric["value"] <= 1
        assert metric["samples"] == 360
        assert {"median", "p90", "p99", "samples", "estimated"} <= latency.keys()
        assert latency["median"] > 0
        assert latency["estimated"] is False
    assert report["result"]["bytes"] == len(model_bytes(folder))
    assert report["teacher"]["bytes"] in [p.stat().st_size for p in folder.glob("cache/lower-*/teacher.onnx")]
    assert report["result"]["bytes"] < report["teacher"]["bytes"] / 2
    assert [p["kind"] for p in report["passes"]] == PASSES
    for each in report["passes"]:
        assert {"kind", "settings", "seconds", "cached", "metrics", "warnings"} <= each.keys()
        assert each["cached"] is False


def test_the_model_is_as_the_manifest_says(digits_ptq: Run) -> None:
    import onnx
    import onnxruntime

    bundle = digits_ptq.folder / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["target"] == "host"
    for name in ("model.onnx", "golden.npz", "run.py"):
        assert manifest["files"][name]["sha256"] == hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    graph = onnx.load(str(bundle / "model.onnx"), load_external_data=False).graph
    assert not any(t.external_data for t in graph.initializer)
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type) == ("input", "tensor(float)")
    assert isinstance(taken.shape[0], str), "the batch is dynamic"
    assert taken.shape[1:] == manifest["input"]["shape"][1:]
    assert session.get_outputs()[0].type == "tensor(float)"
    assert session.run(None, {"input": np.zeros((3, *taken.shape[1:]), np.float32)})[0].shape == (3, 10)


def test_the_bundle_verifies_itself(digits_ptq: Run, tmp_path: Path) -> None:
    bundle = shutil.copytree(digits_ptq.folder / "bundle", tmp_path / "copied")
    done = subprocess.run([sys.executable, str(bundle / "run.py"), "--verify"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "verified\n"), done.stderr


def test_a_second_run_is_answered_from_the_cache(digits_ptq: Run, tmp_path: Path, compress: Compress) -> None:
    folder = shutil.copytree(digits_ptq.folder, tmp_path / "run")
    before = model_bytes(folder)
    done = compress("run", TEACHER, "--target", "host", "--profile", "ptq", *QUICK, "-o", folder, "--json")
    assert done.code == 0, done.err
    assert {p["kind"]: p["cached"] for p in json.loads(done.out)["passes"]} == {k: k != "measure" for k in PASSES}
    assert model_bytes(folder) == before


@pytest.mark.slow
def test_resolved_toml_runs_it_again(
    digits_ptq: Run, tmp_path: Path, compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = digits_ptq.folder
    monkeypatch.chdir(tmp_path)
    done = compress("run", TEACHER, "--profile", folder / "resolved.toml", "-o", tmp_path / "again", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert model_bytes(tmp_path / "again") == model_bytes(folder)
    assert not any(p["cached"] for p in report["passes"])
    first = report_of(folder)
    for key in ("target", "profile", "seed", "inputs", "sizes", "normalization"):
        assert report[key] == first[key]
    pinned = {"leave_float": [], "correction": None}  # what was searched is written down
    wanted = [p["settings"] | (pinned if p["kind"] == "quantize" else {}) for p in first["passes"]]
    assert [p["settings"] for p in report["passes"]] == wanted
    again, once = (tomllib.loads((f / "resolved.toml").read_text()) for f in (tmp_path / "again", folder))
    assert again == once


def heed_interrupts() -> None:
    """A shell's background job ignores SIGINT, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, id="SIGINT"), pytest.param(signal.SIGTERM, id="SIGTERM")],
)
def test_a_stopped_and_a_killed_run_go_on_to_the_same_model(
    number: signal.Signals, digits_ptq: Run, tmp_path: Path, compress: Compress
) -> None:
    folder = tmp_path / "run"
    arguments = ("run", TEACHER, "--target", "host", "--profile", "ptq", *QUICK, "-o", folder, "--json")
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=environment(), preexec_fn=heed_interrupts,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(folder.glob("cache/lower-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 2))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["error"]["exit"] == 130
    assert "error: stopped" in err
    assert "Traceback" not in err
    if number == signal.SIGTERM:
        return

    # Killed without a chance to tidy up, at any moment.
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path, env=environment()
    )
    time.sleep(moment := random.uniform(3, 12))
    process.kill()
    process.wait()

    done = compress(*arguments)
    assert done.code == 0, f"killed after {moment:.2f} s: {done.err}"
    assert model_bytes(folder) == model_bytes(digits_ptq.folder), f"killed after {moment:.2f} s"
    assert not [name for name in tree(folder) if name.endswith(".partial")]


def test_a_bundle_that_was_tampered_with_fails(digits_ptq: Run, tmp_path: Path, compress: Compress) -> None:
    folder = digits_ptq.folder
    done = compress("verify", folder)
    assert (done.code, done.err) == (0, "")
    told = json.loads(compress("verify", folder / "bundle", "--json").out)
    assert told["verified"] is True
    for number, name in enumerate(("model.onnx", "golden.npz", "run.py", "manifest.json")):
        bundle = shutil.copytree(folder / "bundle", tmp_path / str(number))
        content = bytearray((bundle / name).read_bytes())
        content[len(content) // 2] ^= 0x20
        (bundle / name).write_bytes(content)
        done = compress("verify", bundle, "--json")
        assert done.code == 6 or name == "manifest.json", name
        if done.code:
            assert json.loads(done.out)["error"]["exit"] == done.code
            assert "hint:" in done.err
        (bundle / name).unlink()
        assert compress("verify", bundle).code == (2 if name == "manifest.json" else 6), name


# -- one's own architecture and images, tiny -----------------------------------------------------

NETWORK = """
import torch
from torch import nn

def tiny(classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes),
    )
"""
OWN = ("--arch", "own_tiny_net:tiny", "--normalize", "unit", "--input", "3x8x8")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one's own network, its weights and its images; the working directory."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_tiny_net.py").write_text(NETWORK)
    space: dict[str, Any] = {}
    exec(NETWORK, space)
    torch.manual_seed(0)
    torch.save(space["tiny"]().state_dict(), folder / "own.pt")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "red")):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 128, (8, 8, 3), np.uint8)
            pixels[..., 2 * (1 - label)] += 127
            Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def own(home: Path, compress: Compress) -> Path:
    """A finished run of one's own network on one's own images."""
    done = compress("run", "own.pt", "--target", "host", "--profile", "ptq", *OWN, "--data", "images", *QUICK, "--json")
    assert done.code == 0, done.err
    (folder,) = (home / "runs").iterdir()
    return folder


def again(own: Path, *more: object) -> tuple[object, ...]:
    """The same command, and more."""
    return ("run", "own.pt", "--target", "host", "--profile", "ptq", *OWN, "--data", "images", *QUICK, "-o", own, *more)


@pytest.mark.slow
def test_ones_own_network_on_ones_own_images(own: Path) -> None:
    report = report_of(own)
    assert own.name == f"own-host-{report['profile']}", "the default folder"
    assert report["teacher"]["family"] == "own_tiny_net:tiny"
    assert report["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 8, 8]}]
    assert report["teacher"]["metric"]["samples"] == 8, "a fifth was held out"
    assert json.loads((own / "bundle/manifest.json").read_text())["task"]["classes"] == ["blue", "red"]


def test_the_resolved_plan_names_its_files_from_anywhere(own: Path, home: Path, tmp_path: Path) -> None:
    resolved = tomllib.loads((own / "resolved.toml").read_text())
    assert resolved["options"]["data"] == str(home / "images")
    assert (resolved["options"]["normalize"], resolved["options"]["input"]) == ("unit", ["3x8x8"])
    assert [p["kind"] for p in resolved["pass"]] == PASSES


def test_a_changed_input_is_refused_by_name(own: Path, compress: Compress) -> None:
    before = tree(own)
    done = compress(*again(own, "--seed", 1))
    assert done.code == 2
    assert "seed changed" in done.err
    assert "--fresh" in done.err
    assert tree(own) == before


@pytest.mark.slow
def test_fresh_starts_over(own: Path, compress: Compress) -> None:
    before = model_bytes(own)
    done = compress(*again(own, "--fresh", "--json"))
    assert done.code == 0, done.err
    assert not any(p["cached"] for p in json.loads(done.out)["passes"])
    assert model_bytes(own) == before, "and comes to the same"


def test_a_moved_run_goes_on(own: Path, tmp_path: Path, compress: Compress) -> None:
    moved = shutil.copytree(own, tmp_path / "moved")
    done = compress(*again(moved, "--json"))
    assert done.code == 0, done.err
    assert sum(p["cached"] for p in json.loads(done.out)["passes"]) == len(PASSES) - 1
    assert model_bytes(moved) == model_bytes(own)
    assert Path(json.loads(done.out)["bundle"]["path"]).is_relative_to(moved)


@pytest.mark.slow
def test_a_half_written_pass_is_done_again(own: Path, tmp_path: Path, compress: Compress) -> None:
    broken = shutil.copytree(own, tmp_path / "broken")
    (folder,) = broken.glob("cache/quantize-*")
    (folder / "result.json").unlink()
    (folder / "model.onnx").write_bytes(b"half")
    shutil.rmtree(broken / "bundle")
    done = compress(*again(broken, "--json"))
    assert done.code == 0, done.err
    cached = {p["kind"]: p["cached"] for p in json.loads(done.out)["passes"]}
    assert cached["lower"]
    assert not cached["quantize"]
    assert model_bytes(broken) == model_bytes(own)


def test_a_missed_budget_ends_3_and_keeps_the_bundle(own: Path, compress: Compress) -> None:
    done = compress(*again(own, "--budget", "bytes=10", "--budget", "params=1M", "--json"))
    assert done.code == 3
    report = json.loads(done.out)
    assert report["status"] == "missed"
    assert [(o["name"], o["met"]) for o in report["budgets"]] == [("bytes", False), ("params", True)]
    assert "bytes=10" in done.err
    assert str(own) in done.err
    assert compress("verify", own).code == 0


@pytest.mark.slow
def test_a_drop_is_judged_in_points(own: Path, compress: Compress) -> None:
    done = compress(*again(own, "--max-drop", "100", "--json"))
    assert done.code == 0, done.err
    assert json.loads(done.out)["budgets"][0]["met"] is True
    # A network must gain more than everything: nothing can.
    done = compress(*again(own, "--max-drop", "-101"))
    assert done.code == 3
    assert "max-drop" in done.err
    assert "Missed" in done.out


def test_a_summary_is_printed_for_people(own: Path, compress: Compress) -> None:
    done = compress(*again(own))
    assert done.code == 0
    assert f"{own / 'bundle'}" in done.out
    assert "teacher" in done.out


@pytest.mark.slow
def test_a_seed_that_is_another_is_another_run(own: Path, tmp_path: Path, compress: Compress) -> None:
    done = compress(*again(tmp_path / "run", "--seed", 1, "--json"))
    assert done.code == 0, done.err
    assert json.loads(done.out)["seed"] == 1


def test_a_dry_run_checks_and_writes_nothing(home: Path, compress: Compress, tmp_path: Path) -> None:
    before = tree(home)
    done = compress(*again(tmp_path / "run", "--dry-run", "--json"))
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["target"], told["input"], told["passes"]) == ("host", "3x8x8", PASSES)
    assert compress(*again(tmp_path / "run", "--dry-run")).code == 0
    assert not (tmp_path / "run").exists()
    assert {k: v for k, v in tree(home).items() if "__pycache__" not in k} == {
        k: v for k, v in before.items() if "__pycache__" not in k
    }


def test_a_dry_run_refuses_what_a_run_refuses(home: Path, own: Path, compress: Compress, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for folder, more in ((own, ["--seed", 1]), (tmp_path / "mine", []), (tmp_path / "mine" / "thesis.tex", [])):
        done = compress(*again(folder, *more, "--dry-run"))
        assert done.code == 2, folder
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_board_that_builds_for_itself(home: Path, tmp_path: Path, compress: Compress) -> None:
    common = ("run", "own.pt", "--target", "raspberry-pi-5", *OWN, *QUICK, "--json")
    done = compress(*common, "--data", "images", "--profile", "ptq", "-o", tmp_path / "int8")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["engine"] == "pending"
    assert "run.py --verify" in report["todo"]
    assert all(report[side]["latency_ms"]["estimated"] for side in ("teacher", "result"))
    assert "Raspberry Pi 5" in report["why_no_latency"]
    assert report["result"]["metric"]["samples"] == 8
    assert compress("verify", tmp_path / "int8").code == 0

    done = compress(*common, "-o", tmp_path / "float")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["profile"], report["result"]["precision"]) == ("float", "fp16")
    assert report["result"]["metric"] is None
    assert report["why_no_metric"]


@pytest.mark.skipif(bool({"avx512_vnni", "avx_vnni"} & set(machine().features)), reason="this CPU has VNNI")
def test_a_cpu_that_is_not_the_targets_measures_nothing(home: Path, tmp_path: Path, compress: Compress) -> None:
    done = compress(
        "run", "own.pt", "--target", "x86-vnni", "--profile", "ptq", *OWN, *QUICK, "--data", "images",
        "-o", tmp_path / "run", "--json", "--budget", "latency=90%",
    )  # fmt: skip
    report = json.loads(done.out)
    assert done.code == 3, "a limit that cannot be judged is not met"
    assert "not measured" in done.err
    assert report["result"]["latency_ms"] is None
    assert "vnni" in report["why_no_latency"]
    assert report["engine"] == "ready"
    assert next(p for p in report["passes"] if p["kind"] == "quantize")["metrics"]["weight_bits"] == 8


@pytest.mark.slow
def test_without_data_the_float_profile_ends_well(home: Path, tmp_path: Path, compress: Compress) -> None:
    done = compress("run", "own.pt", "--target", "host", *OWN, *QUICK, "-o", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["profile"], report["result"]["precision"]) == ("float", "fp32")
    assert report["data"] is None
    assert report["result"]["metric"] is None
    assert report["why_no_metric"]
    assert report["speedup"] == 1.0
    done = compress("run", "own.pt", "--target", "host", *OWN, *QUICK, "-o", tmp_path / "run")
    assert "not" in done.out.lower()
    assert "accuracy" in done.out.lower()


@pytest.mark.slow
def test_ones_own_target_and_the_null_backend(home: Path, tmp_path: Path, compress: Compress) -> None:
    (home / "board.toml").write_text(
        'backend = "null"\nbuilds = "here"\narch = "any"\nprecisions = ["fp32", "int8"]\nopset = 21\n'
    )
    done = compress(
        "run",
        "own.pt",
        "--target",
        "board.toml",
        "--profile",
        "ptq",
        *OWN,
        *QUICK,
        "--data",
        "images",
        "-o",
        tmp_path / "a",
        "--json",
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["target"] == "board"
    resolved = tomllib.loads((tmp_path / "a" / "resolved.toml").read_text())
    assert resolved["options"]["target"] == str(home / "board.toml"), "from anywhere"


@pytest.mark.slow
def test_a_name_that_looks_like_markup(home: Path, tmp_path: Path, compress: Compress) -> None:
    shutil.copy(home / "own.pt", home / "own[red].pt")
    shutil.copytree(home / "images", home / "im[bold]ages")
    folder = tmp_path / "out[blink]"
    done = compress(
        "run", "own[red].pt", "--target", "host", "--profile", "ptq", *OWN, *QUICK, "--data", "im[bold]ages",
        "-o", folder,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert f"{folder}/bundle" in done.out
    assert "im[bold]ages" in "".join(done.out.split())
