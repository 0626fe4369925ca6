"""A bundle is good only as it lies on disk."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from compressor.backends import _openvino_session, _tensorrt_build_engine, _tensorrt_session
from compressor.bundle import EngineEntry, ImageInput, Manifest, runner, verify_bundle, write_bundle
from compressor.core import Exit, InputSpec, Signature, TensorSpec, UnsafeInput, UsageError, VerificationFailed
from compressor.data._images import decode
from compressor.preprocessing import normalize

HEIGHT, WIDTH, CLASSES = 5, 7, 3
SIGNATURE = Signature(
    (TensorSpec("input", "float32", ("batch", 3, HEIGHT, WIDTH)),),
    (TensorSpec("output", "float32", ("batch", CLASSES)),),
)
MANIFEST = Manifest(
    task={"kind": "classification", "classes": ["cat", "dog", "eel"]},
    target="somewhere",
    precision={"asked": ["fp32"], "realised": "fp32", "from": "graph"},
    opset=21,
    signature=SIGNATURE,
    sizes={"batch": 1},
    engine=EngineEntry("ready", "onnxruntime", "model.onnx"),
    image=ImageInput("input", (0.0, 1.0), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
)
TOLERANCE = {"output": 1e-3}


def _model(seed: int = 0) -> bytes:
    weight = np.random.default_rng(seed).standard_normal((3 * HEIGHT * WIDTH, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def _golden(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    weight = numpy_helper.to_array(onnx.load_from_string(_model(seed)).graph.initializer[0])
    batch = np.random.default_rng(5).standard_normal((4, 3, HEIGHT, WIDTH)).astype(np.float32)
    return {"input": batch}, {"output": batch.reshape(4, -1) @ weight}


def write(folder: Path, model: Path, extra: tuple[Path, ...] = (), **changes: Any) -> Path:
    return write_bundle(folder, model, replace(MANIFEST, **changes), *_golden(), TOLERANCE, extra).path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("good")
    (here / "source.onnx").write_bytes(_model())
    bundle = write(here / "run" / "bundle", here / "source.onnx")
    assert bundle == here / "run" / "bundle"
    return bundle


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "bundle"))


def manifest_of(bundle: Path) -> Any:
    return json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))


def edit(bundle: Path, change: Callable[[Any], Any]) -> None:
    whole = manifest_of(bundle)
    changed = change(whole)
    (bundle / "manifest.json").write_text(json.dumps(whole if changed is None else changed), encoding="utf-8")


def relist(bundle: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed."""
    digest = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    edit(bundle, lambda m: m["files"][name].update(sha256=digest))


def refused(bundle: Path, *words: str) -> None:
    """Both doors say what is wrong: the program's, and the bundle's own."""
    with pytest.raises(VerificationFailed) as caught:
        verify_bundle(bundle)
    assert caught.value.code == Exit.VERIFICATION == 6
    assert caught.value.hint
    for word in words:
        assert word in caught.value.what, caught.value.what
    if (bundle / "run.py").is_file() and (bundle / "run.py").read_bytes() == Path(runner.__file__).read_bytes():
        assert runner.verify(bundle) == runner.verify(str(bundle))


# -- writing and verifying --------------------------------------------------------------------


def test_a_bundle_is_four_files_and_verifies_from_disk(good: Path) -> None:
    assert sorted(p.name for p in good.iterdir()) == ["golden.npz", "manifest.json", "model.onnx", "run.py"]
    manifest = manifest_of(good)
    assert manifest["schema_version"] == 2
    assert manifest["golden"] == {"samples": 4, "tolerance": {"output": 1e-3}}
    assert manifest["input"] == manifest["inputs"][0]
    assert manifest["input"]["layout"] == "NCHW"
    assert manifest["engine"]["file"] == "model.onnx"
    assert set(manifest["files"]) == {"golden.npz", "model.onnx", "run.py"}
    for name, entry in manifest["files"].items():
        data = (good / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    found = verify_bundle(good)
    assert found == verify_bundle(good.parent)  # a run's folder stands for its bundle
    assert found.manifest_sha256 == hashlib.sha256((good / "manifest.json").read_bytes()).hexdigest()


def test_a_bundle_survives_copying(bundle: Path) -> None:
    assert verify_bundle(bundle).path == bundle


def test_extra_files_travel_with_the_bundle_and_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(_model())
    (tmp_path / "model.engine").write_bytes(b"an engine")
    made = write(tmp_path / "b", tmp_path / "model.onnx", (tmp_path / "model.engine",))
    assert "model.engine" in manifest_of(made)["files"]
    (made / "model.engine").write_bytes(b"another")
    refused(made, "model.engine was changed")


def test_the_file_that_the_runtime_loads_must_be_in_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(_model())
    with pytest.raises(UsageError, match=r"has no model\.plan"):
        write(tmp_path / "b", tmp_path / "model.onnx", engine=EngineEntry("ready", "tensorrt", "model.plan"))


def test_the_same_bundle_has_the_same_manifest(good: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(_model())
    again = write(tmp_path / "again", tmp_path / "m.onnx")
    assert (again / "manifest.json").read_bytes() == (good / "manifest.json").read_bytes()


def test_writing_fails_where_the_model_does_not_give_the_golden_outputs(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(_model())
    feeds, outputs = _golden()
    with pytest.raises(VerificationFailed, match="differs from golden"):
        write_bundle(tmp_path / "b", tmp_path / "m.onnx", MANIFEST, feeds, {"output": outputs["output"] + 1}, TOLERANCE)


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_folder_without_a_manifest_is_a_usage_error(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match="is not a bundle") as caught:
        verify_bundle(tmp_path / place)
    assert caught.value.code == 2
    assert caught.value.hint


# -- tampering --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "run.py"])
def test_any_changed_byte_of_any_file_is_named(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, f"{name} was changed")


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "run.py"])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, f"{name} is missing")


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "run.py"])
def test_an_empty_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"")
    refused(bundle, f"{name} was changed")


def test_every_problem_is_named_at_once(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"x")
    (bundle / "golden.npz").unlink()
    refused(bundle, "model.onnx was changed", "golden.npz is missing")


def test_another_model_with_a_manifest_that_agrees_gives_other_outputs(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(_model(seed=1))
    relist(bundle, "model.onnx")
    refused(bundle, "differs from golden.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b, o: {"input:input": b, "output:output": o + 0.1}, "differs from golden.npz"),
        (lambda b, o: {"input:input": b, "output:output": o[:2]}, "wrong shape"),
        (lambda b, o: {"input:input": b, "output:output": o[:, :1]}, "wrong shape"),
        (lambda b, o: {"input:input": b, "output:output": o * np.nan}, "differs"),
        (lambda b, o: {"input:input": b * np.nan, "output:output": o}, "not finite"),
        (lambda b, o: {"input:input": b[:0], "output:output": o[:0]}, "no outputs"),
        (lambda b, o: {"input:input": b[:, :1], "output:output": o}, "cannot be run"),
        (lambda b, o: {"input:input": b}, "cannot be run"),
        (lambda b, o: {"input": b, "output": o}, "cannot be run"),
        (lambda b, o: {"input:input": b, "output:output": np.array(["a", 1], dtype=object)}, "cannot be run"),
        (lambda b, o: {"input:input": b, "output:output": np.full(o.shape, "a")}, "cannot be run"),
    ],
)
def test_golden_outputs_that_do_not_fit(bundle: Path, change: Any, words: str) -> None:
    feeds, outputs = _golden()
    np.savez(bundle / "golden.npz", **change(feeds["input"], outputs["output"]))
    relist(bundle, "golden.npz")
    refused(bundle, words)


@pytest.mark.parametrize("name", ["golden.npz", "model.onnx"])
def test_rubbish_with_a_manifest_that_agrees(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"PK rubbish")
    relist(bundle, name)
    refused(bundle, "cannot be run")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../model.onnx", "..", ".", "", "./run.py", "\0"])
def test_a_manifest_may_not_name_files_elsewhere(bundle: Path, name: str) -> None:
    (bundle.parent / "outside").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    edit(bundle, lambda m: m["files"].update({name: {"sha256": digest, "bytes": 1}}))
    refused(bundle, "missing")


def test_a_file_that_is_a_folder_or_a_dangling_link_is_missing(bundle: Path) -> None:
    (bundle / "run.py").unlink()
    (bundle / "run.py").mkdir()
    refused(bundle, "run.py is missing")
    (bundle / "run.py").rmdir()
    (bundle / "run.py").symlink_to("nowhere")
    refused(bundle, "run.py is missing")


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "run.py"])
def test_a_manifest_that_leaves_a_file_out(bundle: Path, name: str) -> None:
    edit(bundle, lambda m: m["files"].pop(name) and None)
    refused(bundle, f"does not list {name}")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [],
        lambda m: None or {},
        lambda m: "text",
        lambda m: {**m, "files": None},
        lambda m: {**m, "files": []},
        lambda m: {**m, "files": "model.onnx"},
        lambda m: {**m, "files": {"model.onnx": "abc"}},
        lambda m: {**m, "files": {"model.onnx": {}}},
        lambda m: {**m, "files": {"model.onnx": None}},
        lambda m: {k: v for k, v in m.items() if k != "files"},
        lambda m: {k: v for k, v in m.items() if k != "golden"},
        lambda m: {**m, "golden": {}},
        lambda m: {**m, "golden": {"samples": 4, "tolerance": None}},
        lambda m: {**m, "golden": {"samples": 4, "tolerance": 1e-3}},
        lambda m: {**m, "golden": {"samples": 4, "tolerance": {}}},
        lambda m: {**m, "golden": {"samples": 4, "tolerance": {"output": "much"}}},
        lambda m: {**m, "golden": {"samples": 4, "tolerance": {"output": float("nan")}}},
        lambda m: {**m, "golden": {"samples": 4, "tolerance": {"output": float("inf")}}},
        lambda m: {**m, "golden": {"samples": 4, "tolerance": {"output": -1}}},
        lambda m: {**m, "golden": {"samples": 4, "tolerance": {"logits": 1e-3}}},
        lambda m: {**m, "schema_version": 1},
        lambda m: {**m, "schema_version": None},
        lambda m: {k: v for k, v in m.items() if k != "outputs"},
        lambda m: {k: v for k, v in m.items() if k != "inputs"},
        lambda m: {k: v for k, v in m.items() if k != "input"},
        lambda m: {k: v for k, v in m.items() if k != "task"},
        lambda m: {k: v for k, v in m.items() if k != "sizes"},
        lambda m: {k: v for k, v in m.items() if k != "engine"},
        lambda m: {**m, "task": "classification"},
        lambda m: {**m, "task": {}},
        lambda m: {**m, "outputs": []},
        lambda m: {**m, "outputs": [{"name": "logits"}]},
        lambda m: {**m, "outputs": m["outputs"] * 2},
        lambda m: {**m, "inputs": [{"name": "input", "dtype": "float33", "shape": [1]}]},
        lambda m: {**m, "inputs": [{"name": "input", "dtype": "float32", "shape": [-1]}]},
        lambda m: {**m, "inputs": [{"name": "input", "dtype": "float32", "shape": [1.5]}]},
        lambda m: {**m, "inputs": [{"name": "input", "dtype": "float32", "shape": "1x3"}]},
        lambda m: {**m, "input": {"name": "x"}},
        lambda m: m["input"].update(layout="CHWN"),
        lambda m: {**m, "sizes": {}},
        lambda m: {**m, "sizes": {"batch": 0}},
        lambda m: {**m, "sizes": {"batch": True}},
        lambda m: {**m, "ranges": {"batch": [4, 2]}},
        lambda m: {**m, "ranges": {"batch": [1]}},
        lambda m: m["engine"].update(file="model.plan"),
        lambda m: m["engine"].update(file="../model.onnx"),
        lambda m: m["engine"].update(status="perhaps"),
        lambda m: m["engine"].pop("facts") and None,
        lambda m: m["files"]["run.py"].update(sha256="abc"),
        lambda m: m.update(evaluation={"metric": {"name": "top1"}}),
        lambda m: m.update(evaluation={"metric": 0.9}),
    ],
)
def test_a_manifest_of_another_form(bundle: Path, change: Any) -> None:
    edit(bundle, change)
    refused(bundle)
    with pytest.raises(VerificationFailed) as caught:
        Manifest.read(bundle)
    assert caught.value.hint


def edit_image(**changes: Any) -> Callable[[Any], Any]:
    """A change of the image input's entry, in both places where it stands."""

    def change(manifest: Any) -> None:
        for entry in (manifest["input"], manifest["inputs"][0]):
            entry.update(changes)

    return change


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": "CHWN"}, {"layout": "NHWC"}, {"channels": "gbr"}, {"mean": [0.0]}, {"mean": None},
        {"std": [1.0, 1.0, 0.0]}, {"range": [0.0]}, {"range": ["a", "b"]},
        {"mean": [0.0, 0.0, float("nan")]}, {"shape": [1, 3, 5]},
    ],
)  # fmt: skip
def test_an_image_input_that_no_image_fits(bundle: Path, changes: Any) -> None:
    edit(bundle, edit_image(**changes))
    refused(bundle, "manifest.json")


def test_a_manifest_is_read_as_it_was_written(good: Path) -> None:
    read = Manifest.read(good)
    assert Manifest.from_json(read.to_json()) == read
    assert read.signature == SIGNATURE
    assert (read.engine_file, read.metric, read.feed_shapes) == ("model.onnx", None, {"input": (1, 3, HEIGHT, WIDTH)})
    assert read.normalization is not None
    assert (read.normalization.mean, read.normalization.range) == ((0.5, 0.4, 0.3), (0.0, 1.0))
    written = read.to_json()
    assert json.loads(json.dumps(written)) == manifest_of(good)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"null", b"[" * 100_000])
def test_a_manifest_that_is_no_json(bundle: Path, text: bytes) -> None:
    (bundle / "manifest.json").write_bytes(text)
    refused(bundle, "manifest.json cannot be read")


# -- what comes from outside --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numpy.py", "__pycache__", "notes.txt"])
def test_what_the_manifest_does_not_list_does_not_belong(bundle: Path, name: str) -> None:
    (bundle / name).mkdir() if name.startswith("_") else (bundle / name).touch()
    refused(bundle, f"{name} is not the bundle's")


def test_hidden_files_are_no_matter(bundle: Path) -> None:
    (bundle / ".DS_Store").touch()
    verify_bundle(bundle)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "run.py", "manifest.json"])
def test_a_link_out_of_the_bundle_is_unsafe(bundle: Path, name: str) -> None:
    (bundle / name).rename(bundle.parent / name)
    (bundle / name).symlink_to(bundle.parent / name)
    with pytest.raises(UnsafeInput, match=f"{name} is a link out of the bundle"):
        verify_bundle(bundle)


def test_a_link_to_the_bundle_itself_is_none(bundle: Path) -> None:
    (bundle.parent / "link").symlink_to("bundle")
    verify_bundle(bundle.parent / "link")


def test_an_unsafe_model_is_not_run_though_its_hash_is_right(bundle: Path) -> None:
    made = onnx.load_from_string(_model())
    made.graph.initializer[0].dims[0] = 10**9
    (bundle / "model.onnx").write_bytes(made.SerializeToString())
    relist(bundle, "model.onnx")
    with pytest.raises(UnsafeInput, match="claims"):
        verify_bundle(bundle)


@pytest.mark.parametrize("place", ["x" * 5000, "a\0b"])
def test_a_name_that_no_folder_has_is_a_usage_error(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError):
        verify_bundle(tmp_path / place)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "run.py", "manifest.json"])
def test_an_extra_file_cannot_take_the_place_of_the_bundles_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.onnx").write_bytes(_model())
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(UsageError, match=name):
        write(tmp_path / "b", tmp_path / "m.onnx", (tmp_path / name,))
    assert not (tmp_path / "b").exists()


def test_verifying_takes_no_torch(good: Path) -> None:
    code = (
        f"import sys, pathlib; from compressor.bundle import verify_bundle; verify_bundle(pathlib.Path({str(good)!r}))"
    )
    subprocess.run([sys.executable, "-c", f"{code}\nassert 'torch' not in sys.modules"], check=True)


# -- run.py, on a board -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "beyond"),
    [
        (runner, {"functools", "gc", "lzma", "os", "random", "time", "zlib", "numpy", "onnxruntime", "PIL"}),
        (_tensorrt_build_engine, {"functools", "platform", "time", "numpy"}),
        (_tensorrt_session, {"ctypes", "numpy"}),
        (_openvino_session, set()),
    ],
    ids=["run.py", "build_engine.py", "session.py of TensorRT", "session.py of OpenVINO"],
)
def test_what_runs_on_a_board_is_python_3_6(module: Any, beyond: set[str]) -> None:
    source = Path(module.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    imported = {
        (name.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported - {"hashlib", "importlib", "json", "sys", "pathlib", "typing"} == beyond
    assert "from __future__" not in source  # `annotations` came with 3.7
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "strict"
    ]  # of zip, 3.10


BOARD = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {absent!r}:
            raise ImportError(name + ' is not on this board')
sys.meta_path.insert(0, Absent())
sys.argv = {argv!r}
import runpy
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def run(bundle: Path, *arguments: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """``python run.py ARGUMENTS`` where only NumPy, ONNX Runtime and Pillow are installed, or not even those."""
    absent = ("compressor", "torch", "onnx", "onnx_ir", "nncf", "safetensors", "sklearn", *without)
    code = BOARD.format(absent=absent, argv=[str(bundle / "run.py"), *arguments])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=bundle.parent)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(256, size=shape).astype(np.uint8)


def _expected(pixels: np.ndarray) -> list[tuple[str, float]]:
    """Classes and probabilities, by another way."""
    x = (pixels / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    weight = numpy_helper.to_array(onnx.load_from_string(_model()).graph.initializer[0])
    scores = x.transpose(2, 0, 1).reshape(-1) @ weight
    odds = np.exp(scores - scores.max())
    return sorted(zip(("cat", "dog", "eel"), odds / odds.sum(), strict=True), key=lambda pair: -pair[1])


def test_run_verify_on_a_board(bundle: Path) -> None:
    done = run(bundle, "--verify")
    assert (done.returncode, done.stdout, done.stderr) == (0, "verified\n", "")
    (bundle / "model.onnx").write_bytes(_model(seed=1))
    done = run(bundle, "--verify")
    assert (done.returncode, done.stdout) == (6, "")
    assert "model.onnx was changed" in done.stderr


def test_run_an_array(good: Path, tmp_path: Path) -> None:
    pixels = _pixels(2, HEIGHT, WIDTH, 3)
    np.save(tmp_path / "two.npy", pixels)
    np.save(tmp_path / "one.npy", pixels[1])
    done = run(good, str(tmp_path / "two.npy"), without=("PIL",))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2
    for row, each in zip(rows, pixels, strict=True):
        for told, (name, odds) in zip(row, _expected(each), strict=True):
            assert told["class"] == name
            assert told["probability"] == pytest.approx(odds, abs=2e-4)
    assert run(good, str(tmp_path / "one.npy"), without=("PIL",)).stdout.splitlines() == done.stdout.splitlines()[1:]


def test_a_bundle_without_class_names_gives_their_numbers(bundle: Path, tmp_path: Path) -> None:
    edit(bundle, lambda m: {**m, "task": {**m["task"], "classes": []}})
    np.save(tmp_path / "a.npy", _pixels(HEIGHT, WIDTH, 3))
    (row,) = (json.loads(line) for line in run(bundle, str(tmp_path / "a.npy")).stdout.splitlines())
    assert sorted(told["class"] for told in row) == [0, 1, 2]


def test_run_an_image_of_any_size(good: Path, tmp_path: Path) -> None:
    exact = _pixels(HEIGHT, WIDTH, 3)
    Image.fromarray(exact).save(tmp_path / "exact.png")
    np.save(tmp_path / "exact.npy", exact)
    assert run(good, str(tmp_path / "exact.png")).stdout == run(good, str(tmp_path / "exact.npy")).stdout
    Image.fromarray(_pixels(40, 30)).save(tmp_path / "large-grey.jpg")
    Image.fromarray(_pixels(9, 9, 4)).save(tmp_path / "alpha.png")
    for name in ("large-grey.jpg", "alpha.png"):
        done = run(good, str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)) == CLASSES


def test_an_image_without_pillow_says_what_to_do(good: Path, tmp_path: Path) -> None:
    Image.fromarray(_pixels(HEIGHT, WIDTH, 3)).save(tmp_path / "a.png")
    done = run(good, str(tmp_path / "a.png"), without=("PIL",))
    assert done.returncode == 2
    assert "need Pillow" in done.stderr
    assert ".npy of 5 x 7 x 3" in done.stderr


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "1"])
@pytest.mark.parametrize("size", [(5, 7), (40, 30), (30, 90)])
@pytest.mark.parametrize("spec", [InputSpec(3, 5, 7), InputSpec(1, 5, 7), InputSpec(3, 66, 70)])
def test_images_become_what_the_model_was_judged_on(
    tmp_path: Path, mode: str, size: tuple[int, int], spec: InputSpec
) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(1).integers(0, 1 << 16, size, np.uint16))
    else:
        image = Image.fromarray(_pixels(*size, 4)).convert("RGB" if mode in ("P", "CMYK", "1") else mode).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    seen = runner._pixels(str(path), (spec.height, spec.width, spec.channels))
    np.testing.assert_array_equal(seen.transpose(2, 0, 1), decode(path.read_bytes(), spec, "x"))


@pytest.mark.parametrize(
    ("library", "name"), [("numpy", "NumPy"), ("onnxruntime", "ONNX Runtime")], ids=["numpy", "onnxruntime"]
)
@pytest.mark.parametrize("argument", ["--verify", "a.npy"])
def test_a_missing_runtime_is_named_with_its_install_line(good: Path, library: str, name: str, argument: str) -> None:
    done = run(good, argument, without=(library,))
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith(f"error: {name} cannot be imported: {library} is not on this board\n")
    assert done.stderr.endswith("  hint: python3 -m pip install numpy onnxruntime\n")


@pytest.mark.parametrize(("suffix", "keep"), [("png", 60), ("jpg", 300), ("png", 0)])
def test_a_broken_image_is_told_without_a_traceback(good: Path, tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"\x1b[31m.{suffix}"
    Image.fromarray(_pixels(40, 30, 3)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    done = run(good, str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    "array",
    [
        _pixels(HEIGHT, WIDTH),
        _pixels(WIDTH, HEIGHT, 3),
        _pixels(3, HEIGHT, WIDTH),
        _pixels(HEIGHT, WIDTH, 1),
        _pixels(1, 1, HEIGHT, WIDTH, 3),
        np.uint8(7),
        _pixels(HEIGHT, WIDTH, 3).astype(np.float32),
        np.array(["text"]),
        np.array([{}], dtype=object),
        _pixels(0, HEIGHT, WIDTH, 3),
    ],
)
def test_an_array_that_does_not_fit_is_told_without_a_traceback(good: Path, tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "a.npy", array)
    done = run(good, str(tmp_path / "a.npy"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path / 'a.npy'}: ")


@pytest.mark.parametrize("name", ["absent.npy", "absent.png", "text.npy", "text.png", "folder"])
def test_a_file_that_cannot_be_read_is_told_without_a_traceback(good: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for text in ("text.npy", "text.png"):
        (tmp_path / text).write_text("no picture")
    done = run(good, str(tmp_path / name))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("--no-such-flag",), ("--unpack", "x")])
def test_wrong_arguments_get_the_usage(good: Path, arguments: tuple[str, ...]) -> None:
    done = run(good, *arguments)
    assert done.returncode == 2
    assert "python run.py --verify" in done.stderr


def test_help_is_no_error(good: Path) -> None:
    assert run(good, "--help").returncode == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {k: v for k, v in m.items() if k != "input"},
        lambda m: {**m, "task": {**m["task"], "classes": ["cat"]}},
        lambda m: {**m, "task": None},
        lambda m: {**m, "input": {**m["input"], "mean": [0.0, 0.0]}},
        lambda m: {**m, "input": {**m["input"], "shape": None}},
    ],
)
def test_a_broken_manifest_leaves_no_traceback(bundle: Path, tmp_path: Path, change: Any) -> None:
    np.save(tmp_path / "a.npy", _pixels(HEIGHT, WIDTH, 3))
    edit(bundle, change)
    done = run(bundle, str(tmp_path / "a.npy"))
    assert done.returncode == 2
    assert done.stdout == ""


def test_the_model_inside_an_application(good: Path) -> None:
    model = runner.Model(good)
    feeds, outputs = _golden()
    np.testing.assert_allclose(model(feeds)["output"], outputs["output"], atol=1e-4)
    with pytest.raises(ValueError, match="expected 8-bit pixels of 5 x 7 x 3, got float64"):
        model.predict(np.zeros((HEIGHT, WIDTH, 3)))
    with pytest.raises(ValueError, match="no model for super-resolution"):
        model.enlarge(_pixels(HEIGHT, WIDTH, 3))


@pytest.mark.parametrize(("layout", "channels"), [("NHWC", "rgb"), ("NCHW", "bgr"), ("NHWC", "bgr")])
def test_layout_and_channels_are_the_networks(tmp_path: Path, layout: str, channels: str) -> None:
    """A network that takes the same images in another form gives the same scores."""
    weight = numpy_helper.to_array(onnx.load_from_string(_model()).graph.initializer[0])
    planes = weight.reshape(3, HEIGHT, WIDTH, CLASSES)[:: -1 if channels == "bgr" else 1]
    shape = (3, HEIGHT, WIDTH)
    if layout == "NHWC":
        planes, shape = planes.transpose(1, 2, 0, 3), (HEIGHT, WIDTH, 3)
    model = onnx.load_from_string(_model())
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(planes.reshape(-1, CLASSES).copy(), "w"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    image = ImageInput("input", (0.0, 1.0), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), layout, channels)
    spec = TensorSpec("input", "float32", ("batch", *shape))
    manifest = replace(MANIFEST, signature=replace(SIGNATURE, inputs=(spec,)), image=image)
    batch = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    outputs = {"output": batch.reshape(2, -1) @ planes.reshape(-1, CLASSES)}
    made = write_bundle(tmp_path / "b", tmp_path / "m.onnx", manifest, {"input": batch}, outputs, TOLERANCE)
    pixels = _pixels(HEIGHT, WIDTH, 3)
    scores = runner.Model(made.path).predict(pixels)[0]
    odds = np.exp(scores - scores.max())
    found = dict(zip(("cat", "dog", "eel"), odds / odds.sum(), strict=True))
    assert found == pytest.approx(dict(_expected(pixels)), abs=1e-5)
    np.testing.assert_array_equal(
        runner.Model(made.path).prepare(pixels)["input"],
        normalize(pixels.transpose(2, 0, 1)[np.newaxis], Manifest.read(made.path).normalization),  # type: ignore[arg-type]
    )
