"""Bundles of networks with several inputs and outputs, of any type, with free and fixed axes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import FIXED, LENGTH, LOOSE, TWO, WHOLE, fixed_batch, no_batch, two_inputs, whole_array

from compressor.backends.onnxruntime import OnnxRuntime
from compressor.bundle import EngineEntry, Manifest, runner, verify_bundle, write_bundle
from compressor.core import Signature, VerificationFailed
from compressor.feeds import random_feeds, run_in_batches

CASES = {
    "two inputs": (two_inputs, TWO, {"batch": 1, "length": LENGTH}),
    "a fixed batch": (fixed_batch, FIXED, {}),
    "no batch": (no_batch, LOOSE, {}),
    "no batch, one input": (whole_array, WHOLE, {}),
}


def make(
    folder: Path, case: str, samples: int = 4, engine: EngineEntry | None = None, extra: tuple[Path, ...] = ()
) -> Path:
    content, signature, sizes = CASES[case]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.onnx").write_bytes(content())
    feeds = random_feeds(signature, sizes, samples, seed=1)
    outputs = run_in_batches(OnnxRuntime().open(folder / "source.onnx", threads=1), feeds, 2)
    manifest = replace(Manifest.of_graph(signature, sizes), target="nowhere")
    if engine is not None:
        manifest = replace(manifest, engine=engine)
    tolerances = {name: 0.0 if array.dtype.kind == "i" else 1e-5 for name, array in outputs.items()}
    return write_bundle(folder / "bundle", folder / "source.onnx", manifest, feeds, outputs, tolerances, extra).path


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def run(bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(bundle / "run.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=bundle.parent)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_bundle_is_written_and_verified_from_disk(tmp_path: Path, case: str) -> None:
    bundle = make(tmp_path, case)
    assert verify_bundle(bundle).path == bundle
    assert run(bundle, "--verify").stdout == "verified\n"
    manifest = Manifest.read(bundle)
    assert manifest.signature == CASES[case][1]
    assert (manifest.normalization, json.loads((bundle / "manifest.json").read_text())["input"]) == (None, None)
    with np.load(bundle / "golden.npz") as golden:
        ends = (manifest.signature.inputs, manifest.signature.outputs)
        names = [f"{end}:{spec.name}" for end, specs in zip(("input", "output"), ends, strict=True) for spec in specs]
        assert golden.files == names
        assert [str(golden[name].dtype) for name in names] == [spec.dtype for specs in ends for spec in specs]


def test_one_wrong_output_of_two_is_named(tmp_path: Path) -> None:
    bundle = make(tmp_path, "two inputs")
    feeds = {spec.name: np.load(bundle / "golden.npz")[f"input:{spec.name}"] for spec in TWO.inputs}
    wanted = {spec.name: np.load(bundle / "golden.npz")[f"output:{spec.name}"] for spec in TWO.outputs}
    model = runner.Model(bundle)
    assert runner.compare(model, feeds, wanted) == []
    (problem,) = runner.compare(model, feeds, {**wanted, "best": wanted["best"] + 1})
    assert problem == "best differs from golden.npz by 1, more than 0"
    with pytest.raises(VerificationFailed, match="best differs"):
        write_bundle(
            tmp_path / "other", tmp_path / "source.onnx", Manifest.read(bundle), feeds,
            {**wanted, "best": wanted["best"] + 1}, {"scores": 1e-5, "best": 0.0},
        )  # fmt: skip


def test_infinities_are_compared_too() -> None:
    class Masked:
        def __init__(self) -> None:
            inputs = [{"name": "x", "shape": ["batch", 2]}]
            self.manifest = {"inputs": inputs, "golden": {"tolerance": {"y": 0.1}}}

        def __call__(self, feeds: Any) -> Any:
            return {"y": feeds["x"]}

    masked: Any = Masked()
    wanted = np.array([[-np.inf, 1.0]], np.float32)
    assert runner.compare(masked, {"x": wanted}, {"y": wanted}) == []
    assert runner.compare(masked, {"x": -wanted}, {"y": wanted})
    assert runner.compare(masked, {"x": np.zeros_like(wanted)}, {"y": wanted})


def test_any_network_is_fed_from_a_file(tmp_path: Path, case: str) -> None:
    bundle = make(tmp_path, case)
    _, signature, sizes = CASES[case]
    feeds = random_feeds(signature, sizes, 5, seed=2)
    np.savez(tmp_path / "mine.npz", **feeds)
    done = run(bundle, tmp_path / "mine.npz")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["file"] == "mine-outputs.npz"
    expected = run_in_batches(OnnxRuntime().open(tmp_path / "source.onnx", threads=1), feeds, 5)
    with np.load(tmp_path / "mine-outputs.npz") as made:
        assert list(made) == list(document["outputs"]) == list(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(made[name], array, rtol=1e-6)
            assert document["outputs"][name] == {"dtype": str(array.dtype), "shape": list(array.shape)}


@pytest.mark.parametrize(
    "change",
    [
        lambda feeds: {"features": feeds["features"]},
        lambda feeds: {**feeds, "more": feeds["features"]},
        lambda feeds: {**feeds, "tokens": feeds["tokens"].astype(np.int32)},
        lambda feeds: {**feeds, "tokens": feeds["tokens"][0, 0]},
        lambda feeds: {**feeds, "features": feeds["features"][:, :2]},
        lambda feeds: {**feeds, "features": np.array([{}], dtype=object)},
    ],
)
def test_feeds_that_do_not_fit_are_told_without_a_traceback(tmp_path: Path, change: Any) -> None:
    bundle = make(tmp_path, "two inputs")
    np.savez(tmp_path / "wrong.npz", **change(random_feeds(TWO, CASES["two inputs"][2], 2, seed=0)))
    done = run(bundle, tmp_path / "wrong.npz")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'wrong.npz'}: ")


def test_an_image_is_no_feed_of_a_network_that_takes_none(tmp_path: Path) -> None:
    bundle = make(tmp_path, "two inputs")
    np.save(tmp_path / "pixels.npy", np.zeros((4, 4, 3), np.uint8))
    done = run(bundle, tmp_path / "pixels.npy")
    assert done.returncode == 2
    assert "it takes no image" in done.stderr


def test_every_network_is_timed(tmp_path: Path) -> None:
    bundles = [make(tmp_path / case, case) for case in CASES]
    done = run(bundles[0], "--time", *bundles, "--blocks=5", "--inferences=4")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [[len(block) for block in samples] for samples in document["samples_ms"]] == [[4] * 5] * len(CASES)


@pytest.mark.parametrize("samples", [1, 3, 4, 7])
def test_the_runner_batches_as_the_compiler_does(tmp_path: Path, case: str, samples: int) -> None:
    bundle = make(tmp_path, case)
    feeds = random_feeds(CASES[case][1], CASES[case][2], samples, seed=samples)
    expected = run_in_batches(OnnxRuntime().open(bundle / "model.onnx", threads=1), feeds, 2)
    made = runner.in_batches(runner.Model(bundle), feeds)
    assert list(made) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(made[name], array, rtol=1e-5, atol=1e-6)


SESSION = """
import numpy as np
class Session:
    def __init__(self, path):
        self.name = path.name
    def __call__(self, feeds):
        assert self.name == "model.plan", self.name
        return {"y": feeds["x"] * 2}
"""


def test_the_engine_that_the_manifest_names_is_loaded(tmp_path: Path) -> None:
    """Not model.onnx, which is there too; and only by the hash that it was written with."""
    (tmp_path / "model.plan").write_bytes(b"an engine")
    (tmp_path / "session.py").write_text(SESSION)
    engine = EngineEntry("ready", "tensorrt", "model.plan")
    bundle = make(tmp_path, "a fixed batch", 4, engine, (tmp_path / "model.plan", tmp_path / "session.py"))
    assert Manifest.read(bundle).engine_file == "model.plan"
    assert run(bundle, "--verify").stdout == "verified\n"
    (bundle / "model.plan").write_bytes(b"another")
    with pytest.raises(RuntimeError, match=r"model\.plan was changed"):
        runner.Model(bundle)


def test_a_signature_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    bundle = make(tmp_path, "a fixed batch")
    twice = replace(Manifest.read(bundle), signature=Signature(FIXED.inputs * 2, FIXED.outputs))
    twice.write(bundle)
    with pytest.raises(VerificationFailed, match="two of one name"):
        Manifest.read(bundle)
