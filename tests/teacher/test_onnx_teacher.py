"""ONNX files as teachers: any signature, the same outputs, a bundle that verifies itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Done
from networks import TWO, fixed_batch, no_batch, two_inputs, whole_array, with_state
from onnx import helper, numpy_helper
from PIL import Image

QUICK = ("--set", "measure.blocks=5", "--set", "measure.inferences=1", "--set", "verify.samples=16")

ZOO = {
    "text-angle": "--normalize symmetric --channels bgr",
    "text-detector": "--normalize symmetric --channels bgr --input 3x320x320",
    "gender": "--normalize raw",
    "yunet": "--normalize raw --channels bgr",
    "face-ssd": "--normalize 0.498,0.498,0.498/0.502,0.502,0.502",
    "fastestdet": "--normalize unit --channels bgr",
    "portrait-sinet": "--normalize unit",
    "portrait-prisma": "--normalize unit",
    "voice-activity": None,
    "denoise-lstm": None,
    "speech-stream": None,
    "file-type": None,
}
"""How each of the zoo takes its images; None of those that take none."""


@pytest.mark.slow
@pytest.mark.parametrize("make", [two_inputs, fixed_batch, no_batch, whole_array])
def test_any_signature_goes_through(make: Callable[[], bytes], tmp_path: Path, compress: Callable[..., Done]) -> None:
    (tmp_path / "teacher.onnx").write_bytes(make())
    done = compress("run", tmp_path / "teacher.onnx", "--target", "host", *QUICK, "-o", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["teacher"]["family"] == "onnx"
    _check_same(tmp_path / "teacher.onnx", tmp_path / "run" / "bundle")
    assert compress("verify", tmp_path / "run").code == 0


def test_inspect_tells_the_signature(tmp_path: Path, compress: Callable[..., Done]) -> None:
    (tmp_path / "teacher.onnx").write_bytes(two_inputs())
    told = json.loads(compress("inspect", tmp_path / "teacher.onnx", "--json").out)
    assert told["inputs"] == [str(spec) for spec in TWO.inputs]
    assert (told["family"], told["task"]) == ("onnx", "generic")


def test_images_do_not_fit_a_network_without(tmp_path: Path, compress: Callable[..., Done]) -> None:
    (tmp_path / "teacher.onnx").write_bytes(two_inputs())
    (tmp_path / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    done = compress("run", tmp_path / "teacher.onnx", "--target", "host", "--data", tmp_path / "images")
    assert done.code == 2
    assert "holds images, and the network takes features" in done.err


def test_arch_is_for_checkpoints(tmp_path: Path, compress: Callable[..., Done]) -> None:
    (tmp_path / "teacher.onnx").write_bytes(fixed_batch())
    done = compress("run", tmp_path / "teacher.onnx", "--target", "host", "--arch", "a:b")
    assert done.code == 2
    assert "--arch is for checkpoints" in done.err


@pytest.mark.slow
def test_a_state_of_several_rows_is_calibrated(tmp_path: Path, compress: Callable[..., Done]) -> None:
    (tmp_path / "step.onnx").write_bytes(with_state())
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "steps.npz", x=rng.standard_normal((6, 20, 1, 4)).astype(np.float32))
    ways = (("--set", "quantize.data=synthetic"), ("--data", tmp_path / "steps.npz"))
    for number, way in enumerate(ways):
        done = compress(
            "run", tmp_path / "step.onnx", "--target", "host", "--profile", "ptq", *way, *QUICK,
            "-o", tmp_path / str(number),
        )  # fmt: skip
        assert done.code == 0, done.err
        golden = np.load(tmp_path / str(number) / "bundle" / "golden.npz")
        assert (len(golden["input:x"]), len(golden["output:y"])) == (8, 8)
        assert golden["input:state"].reshape(-1, 2, 1, 4).shape[0] == 8
        assert compress("verify", tmp_path / str(number)).code == 0


def test_values_out_of_half_precision_stay_in_float32(tmp_path: Path, compress: Callable[..., Done]) -> None:
    large, small = (numpy_helper.from_array(np.full((4, 4), v, np.float32), n) for n, v in (("l", 6e4), ("s", 1e-5)))
    last = numpy_helper.from_array(np.eye(4, dtype=np.float32), "i")
    nodes = [
        helper.make_node("MatMul", ["x", "l"], ["wide"]),
        helper.make_node("MatMul", ["wide", "s"], ["z"]),
        helper.make_node("MatMul", ["z", "i"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [large, small, last])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "wide.onnx").write_bytes(made.SerializeToString())
    done = compress("run", tmp_path / "wide.onnx", "--target", "jetson-orin", *QUICK, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    warned = json.loads((tmp_path / "run" / "report.json").read_text())["passes"][0]["warnings"]
    assert warned == ["2 of 3 operations stay in float32: FP16 cannot hold their values"]
    shipped = onnx.load(tmp_path / "run" / "bundle" / "model.onnx")
    kinds = {t.name.partition("_")[0]: t.data_type for t in shipped.graph.initializer}
    assert kinds == {"l": onnx.TensorProto.FLOAT, "s": onnx.TensorProto.FLOAT, "i": onnx.TensorProto.FLOAT16}


def _one_operator(op: str, opset: int, *constants: onnx.TensorProto, **attributes: float) -> bytes:
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    node = helper.make_node(op, ["x", *(each.name for each in constants)], ["y"], **attributes)
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    data: bytes = made.SerializeToString()
    return data


def test_what_the_runtime_is_too_new_for_is_refused(tmp_path: Path, compress: Callable[..., Done]) -> None:
    slope = numpy_helper.from_array(np.ones(4, np.float32), "slope")
    (tmp_path / "old.onnx").write_bytes(_one_operator("PRelu", 6, slope))
    done = compress("run", tmp_path / "old.onnx", "--target", "host", "-o", tmp_path / "run")
    assert done.code == 2
    assert "of opset 6, and ONNX Runtime no longer runs it" in done.err


def test_a_network_that_makes_no_numbers_of_random_samples(tmp_path: Path, compress: Callable[..., Done]) -> None:
    (tmp_path / "log.onnx").write_bytes(_one_operator("Log", 13))
    done = compress("run", tmp_path / "log.onnx", "--target", "host", *QUICK, "-o", tmp_path / "run")
    assert done.code == 2
    assert "the network's own output y is not finite on random samples" in done.err
    assert "--data" in done.err


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_in_float(name: str, shared_data: Path, tmp_path: Path, compress: Callable[..., Done]) -> None:
    """Networks as their makers exported them: verified, and within 1e-4 of the original."""
    file = shared_data / "zoo" / f"{name}.onnx"
    done = compress("run", file, "--target", "host", "--profile", "float", *QUICK, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    _check_same(file, tmp_path / "run" / "bundle")


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gender", "fastestdet"])
def test_the_zoo_in_int8(name: str, shared_data: Path, tmp_path: Path, compress: Callable[..., Done]) -> None:
    """Calibrated on unlabelled photographs: 17 dB are kept, in integers or in float, and float is said."""
    file, flags = shared_data / "zoo" / f"{name}.onnx", str(ZOO[name]).split()
    done = compress(
        "run", file, "--target", "host", "--profile", "ptq", "--data", shared_data / "photos", *flags, *QUICK,
        "--set", "quantize.minutes=0.3", "--set", "quantize.samples=100",
        "-o", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(done.out)
    quantize, verify = (next(p for p in report["passes"] if p["kind"] == kind) for kind in ("quantize", "verify"))
    rung = verify["metrics"]["ladder"][-1]
    assert min(parity["db"] for parity in rung["outputs"].values()) > 14
    assert rung["to"] == report["result"]["precision"]
    in_float = quantize["metrics"].get("in_float") == ["*"]
    assert in_float == (rung["to"] == "fp32") == any("stays in float" in warning for warning in quantize["warnings"])


def _check_same(original: Path, bundle: Path) -> None:
    """The bundle's graph gives what the original does for the golden inputs, and for others of its kind."""
    golden = np.load(bundle / "golden.npz")
    feeds = {name.removeprefix("input:"): golden[name] for name in golden.files if name.startswith("input:")}
    sessions = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (original, bundle / "model.onnx")
    ]
    for end in sessions[0].get_inputs():  # one run's worth of the golden samples
        array = feeds[end.name]
        if array.ndim > len(end.shape):
            feeds[end.name] = np.asarray(array[0])
        elif end.shape and isinstance(end.shape[0], int) and end.shape[0] > 0:
            feeds[end.name] = array[: end.shape[0]]
    generator = np.random.default_rng(1)
    other = {
        name: np.asarray(generator.random(array.shape, np.float32)) if array.dtype == np.float32 else array
        for name, array in feeds.items()
    }
    names = [end.name for end in sessions[0].get_outputs()]
    assert names == [end.name for end in sessions[1].get_outputs()]
    for given in (feeds, other):
        wanted, got = (session.run(names, given) for session in sessions)
        for a, b in zip(wanted, got, strict=True):
            assert np.abs(a - b).max(initial=0) <= 1e-4 * max(1.0, float(np.abs(a).max(initial=0)))
