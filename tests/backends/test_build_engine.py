"""The script that builds a bundle's engine on the device, from the bundle to the engine, with TensorRT stood in for."""

from __future__ import annotations

import importlib
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from compressor.backends import _tensorrt_build_engine as build_engine
from compressor.bundle import EngineEntry, Manifest, write_bundle
from compressor.core import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("left", "float32", ("batch", 4)), TensorSpec("right", "float32", ("batch", 4))),
    (TensorSpec("sum", "float32", ("batch", 4)), TensorSpec("best", "int64", ("batch",))),
)
LAYERS = [{"node": "MatMul_0", "op": "MatMul", "macs": 16, "asked": "int8"}]


def bundle(folder: Path) -> Path:
    """A bundle of two inputs and two outputs, pending for TensorRT 10.3."""
    nodes = [
        helper.make_node("MatMul", ["right", "w"], ["turned"], "MatMul_0"),
        helper.make_node("Add", ["left", "turned"], ["sum"]),
        helper.make_node("ArgMax", ["sum"], ["best"], axis=1, keepdims=0),
    ]
    ends = [
        [
            helper.make_tensor_value_info(s.name, helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype)), s.shape)
            for s in side
        ]
        for side in (SIGNATURE.inputs, SIGNATURE.outputs)
    ]
    weight = np.eye(4, dtype=np.float32)[::-1].copy()
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(weight, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    extra = [folder / name for name in ("build_engine.py", "session.py", "float.onnx")]
    for path, content in zip(extra, (Path(build_engine.__file__).read_bytes(), b"", b"the float graph"), strict=True):
        path.write_bytes(content)
    rng = np.random.default_rng(0)
    feeds = {spec.name: rng.standard_normal((3, 4)).astype(np.float32) for spec in SIGNATURE.inputs}
    total = feeds["left"] + feeds["right"] @ weight
    facts = {"runtime_version": "10.3", "layers": LAYERS, "int8_share_wanted": 0.8, "graph_for": "10.3"}
    manifest = Manifest(
        task={"kind": "generic"}, target="jetson-orin", opset=20, signature=SIGNATURE, sizes={"batch": 1},
        precision={"asked": ["int8"], "realised": "int8", "from": "graph"}, ranges={"batch": (1, 2)},
        engine=EngineEntry("pending", "tensorrt", "model.onnx", "build it", facts),
    )  # fmt: skip
    expected = {"sum": total, "best": total.argmax(1)}
    made_bundle = write_bundle(
        folder / "bundle", folder / "model.onnx", replace(manifest), feeds, expected, {"sum": 1e-4, "best": 0.0}, extra
    )
    return made_bundle.path


class Session:
    """Runs the bundle's graph on ONNX Runtime, whatever the plan; a batch of over 2 is beyond the engine."""

    def __init__(self, path: Path, off: float = 0.0) -> None:
        graph = path.parents[2] / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self._off = off

    def __call__(self, feeds: dict[str, Any]) -> dict[str, Any]:
        assert all(len(array) <= 2 for array in feeds.values())
        total, best = self._session.run(["sum", "best"], feeds)
        return {"sum": total + self._off, "best": best}


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bundle on a board: ``run(*arguments, precision=, off=)`` runs its script; ``run.folder``, ``run.built``."""
    folder = bundle(tmp_path / "made")
    built: list[tuple[bytes, Any]] = []

    def build_plan(trt: Any, content: bytes, spans: Any, cache: bytes, workspace: int) -> tuple[bytes, bytes]:
        built.append((content, spans))
        return b"plan of " + content[:8], b"timings"

    def run(*arguments: str, precision: str = "Int8", off: float = 0.0) -> int:
        names = ("session", "run", "tensorrt")
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(folder))
        session = types.SimpleNamespace(Session=lambda path: Session(path, off))
        monkeypatch.setitem(sys.modules, "session", session)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "tensorrt", types.SimpleNamespace(__version__="10.3.0"))  # type: ignore[arg-type]
        monkeypatch.setattr(build_engine, "__file__", str(folder / "build_engine.py"))
        monkeypatch.setattr(build_engine, "build_plan", build_plan)
        layer = {"Name": "MatMul_0", "Inputs": [{"Format/Datatype": precision}]}
        monkeypatch.setattr(build_engine, "_layers", lambda trt, plan: [layer])
        importlib.import_module("run")
        return build_engine.main([*arguments, "--keep-slower"])

    run.folder, run.built = folder, built  # type: ignore[attr-defined]
    return run


def test_an_engine_is_built_checked_and_kept(board: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert board() == 0, capsys.readouterr().err
    (kept,) = (board.folder / "engines").iterdir()
    report = json.loads((kept / "build.json").read_text())
    assert (kept / "model.plan").read_bytes().startswith(b"plan of")
    assert report["int8_share"] == 1.0
    assert report["layers"] == [{**LAYERS[0], "realised": "int8"}]
    assert set(report["milliseconds"]) == {"int8", "float"}
    assert [content for content, _ in board.built][1] == b"the float graph"
    assert board.built[0][1] == {"left": [(1, 1, 2), (4, 4, 4)], "right": [(1, 1, 2), (4, 4, 4)]}


def test_a_check_builds_nothing(board: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert board("--check") == 0
    assert "would start" in capsys.readouterr().out
    assert not board.built


def test_an_engine_that_computes_something_else_is_refused(board: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert board(off=0.1) == 6
    assert "sum differs from golden.npz by 0.1" in capsys.readouterr().err


def test_an_engine_in_float_is_refused_where_int8_was_wanted(board: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert board(precision="Half") == 6
    assert "only 0% of the multiplications run in INT8" in capsys.readouterr().err
    (kept,) = (board.folder / "engines").iterdir()
    assert not (kept / "model.plan").exists()
    assert (kept / "model.refused.plan").exists()


def test_a_damaged_graph_is_not_built(board: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (board.folder / "model.onnx").write_bytes(b"another")
    assert board() == 2
    assert "SHA-256" in capsys.readouterr().err


def test_another_major_version_of_tensorrt(board: Any, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((board.folder / "manifest.json").read_text())
    manifest["engine"]["facts"]["runtime_version"] = "8.6"
    (board.folder / "manifest.json").write_text(json.dumps(manifest))
    assert board() == 5
    assert 'runtime_version = "10.3"' in capsys.readouterr().err
    assert not board.built
