"""What is timed: bundles and ONNX files of any network, at the sizes that are asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import FIXED, TWO, fixed_batch, no_batch, two_inputs
from onnx import TensorProto, helper

from compressor import catalog
from compressor.bench.bench_model import BenchModel, require_same_inputs
from compressor.bench.estimate import estimate
from compressor.bundle import EngineEntry, Manifest, write_bundle
from compressor.core import GivenInput, UsageError


def read(path: Path, *texts: str) -> BenchModel:
    return BenchModel.read(path, GivenInput.parse_all(texts))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    (tmp_path / "two.onnx").write_bytes(two_inputs())
    return tmp_path / "two.onnx"


def test_an_onnx_file_is_timed_at_batch_1_and_the_sizes_given(two: Path, tmp_path: Path) -> None:
    model = read(two, "tokens=7")
    assert model.signature == TWO
    assert model.feed_shapes == {"features": (1, 4), "tokens": (1, 7)}
    loaded = model.loaded(tmp_path)
    assert {name: (str(a.dtype), a.shape) for name, a in loaded.feeds.items()} == {
        "features": ("float32", (1, 4)), "tokens": ("int64", (1, 7)),
    }  # fmt: skip
    session = catalog.find("backends", loaded.backend)().open(loaded.path, threads=1)
    assert list(session(loaded.feeds)) == ["scores", "best"]


def test_a_fixed_batch_is_timed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "fixed.onnx").write_bytes(fixed_batch())
    assert read(tmp_path / "fixed.onnx").feed_shapes == {"x": (3, 4)}
    (tmp_path / "none.onnx").write_bytes(no_batch())
    assert read(tmp_path / "none.onnx").feed_shapes == {"x": (1, 4), "gain": ()}


def test_a_size_that_is_missing_is_asked_for(two: Path, compress: Any) -> None:
    done = compress("bench", two)
    assert done.code == 2
    assert "the size of axis 'length' of tokens is not known" in done.err
    assert "hint: --input tokens=" in done.err
    done = compress("bench", two, "--input", "tokens=6", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["models"]["candidate"]["latency_ms"]["samples"] == 480


@pytest.mark.parametrize("text", ["6", "words=6", "tokens=6:int32", "features=5"])
def test_sizes_that_do_not_fit(two: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(two, text)
    assert caught.value.hint


def _relu(path: Path, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> BenchModel:
    ends = [helper.make_tensor_value_info(each, dtype, shape) for each in (name, "y")]
    graph = helper.make_graph([helper.make_node("Relu", [name], ["y"])], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(made.SerializeToString())
    return read(path)


def test_models_are_compared_where_they_are_fed_alike(tmp_path: Path, two: Path) -> None:
    one = _relu(tmp_path / "a.onnx", "input", ["batch", 3, 4, 4])
    require_same_inputs([one])
    require_same_inputs([one, _relu(tmp_path / "b.onnx", "x", [1, 3, 4, 4])])  # another name and a fixed batch
    for other in (
        _relu(tmp_path / "c.onnx", "input", ["batch", 3, 4, 5]),
        _relu(tmp_path / "d.onnx", "input", ["batch", 3, 4, 4], TensorProto.DOUBLE),
        _relu(tmp_path / "e.onnx", "input", [2, 3, 4, 4]),
        read(two, "tokens=6"),
    ):
        with pytest.raises(UsageError, match="the inputs differ: input float32 1x3x4x4"):
            require_same_inputs([one, other])
    require_same_inputs([read(two, "tokens=6"), read(two, "tokens=6")])
    with pytest.raises(UsageError, match="inputs differ"):
        require_same_inputs([read(two, "tokens=6"), read(two, "tokens=7")])


SESSION = (
    "class Session:\n    def __init__(self, path): pass\n    def __call__(self, feeds): return {'y': feeds['x'] * 2}\n"
)


def test_the_engine_of_a_bundle_is_what_is_timed(tmp_path: Path) -> None:
    """And its graph, where accuracy is judged in float."""
    for name, content in (
        ("source.onnx", fixed_batch()), ("model.plan", b"an engine"), ("session.py", SESSION.encode()),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    manifest = replace(Manifest.of_graph(FIXED, {}), engine=EngineEntry("ready", "tensorrt", "model.plan"))
    feeds = {"x": np.ones((3, 4), np.float32)}
    extra = (tmp_path / "model.plan", tmp_path / "session.py")
    bundle = write_bundle(
        tmp_path / "bundle", tmp_path / "source.onnx", manifest, feeds, {"y": 2 * feeds["x"]}, {"y": 0.0}, extra
    ).path
    model = read(bundle)
    assert (model.backend, model.loaded(tmp_path).path) == ("tensorrt", bundle / "model.plan")
    assert model.graph(tmp_path) == bundle / "model.onnx"


def test_a_board_gets_the_sizes_that_are_timed(two: Path) -> None:
    sent = read(two, "tokens=7").files()
    assert json.loads(sent["manifest.json"])["sizes"] == {"batch": 1, "length": 7}


def test_an_estimate_is_of_feeds_by_name() -> None:
    target = catalog.find_target("jetson-orin")
    short, long = (
        estimate(onnx.load_from_string(two_inputs()), {"features": (1, 4), "tokens": (1, length)}, target)
        for length in (6, 600_000)
    )
    assert short is not None
    assert long is not None
    assert short.estimated
    assert short.median < long.median
