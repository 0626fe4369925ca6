"""``compress explain``: each part in its other precision, after a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from networks import with_state
from runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("explain")]
Compress = Callable[..., Any]


@pytest.fixture(scope="module")
def explained(digits_ptq: Run, compress: Compress) -> Any:
    done = compress("explain", digits_ptq.folder, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_every_layer_is_explained(digits_ptq: Run, explained: Any) -> None:
    (graph,) = digits_ptq.folder.glob("cache/lower-*/*.onnx")
    layers = {n.name for n in onnx.load(str(graph)).graph.node if n.op_type in ("Conv", "Gemm")}
    told = [name for region in explained["regions"] for name in region["nodes"]]
    assert layers <= set(told)
    assert len(told) == len(set(told))
    assert sum(region["macs_share"] for region in explained["regions"]) == pytest.approx(1)
    assert {region["ships"] for region in explained["regions"]} == {"int8"}
    assert explained["precision"] == "int8"
    assert 10 < explained["snr_db"] < 100
    # In float as a whole the network would be exact: some part in float brings it nearer.
    assert explained["next_accuracy"]["snr_change_db"] > 0
    assert explained["next_accuracy"]["other"] == "fp32"
    assert all(region["latency_change"] is not None for region in explained["regions"])


def test_the_table_names_the_layers(digits_ptq: Run, explained: Any, compress: Compress) -> None:
    done = compress("explain", digits_ptq.folder / "bundle")
    assert done.code == 0
    assert explained["regions"][0]["first"] in done.out
    assert "As it ships:" in done.out
    assert "More accuracy:" in done.out


def test_a_run_in_float_of_a_network_with_states(compress: Compress, tmp_path: Path) -> None:
    (tmp_path / "step.onnx").write_bytes(with_state())
    said = ("--target", "host", "--profile", "float", "--set", "measure.blocks=5", "-o", tmp_path / "run")
    assert compress("run", tmp_path / "step.onnx", *said).code == 0
    told = json.loads(compress("explain", tmp_path / "run", "--json").out)
    assert {(region["ships"], region["other"]) for region in told["regions"]} == {("fp32", "int8")}
    assert told["snr_db"] == 200
    assert told["next_accuracy"] is None
    assert all(region["snr_change_db"] < 0 for region in told["regions"] if region["macs_share"])


def test_what_cannot_be_explained_is_said(digits_ptq: Run, compress: Compress, tmp_path: Path) -> None:
    assert compress("explain", tmp_path).code == 2
    bundle = shutil.copytree(digits_ptq.folder / "bundle", tmp_path / "bundle")
    alone = compress("explain", bundle)
    assert alone.code == 2
    assert "Traceback" not in alone.err
    moved = shutil.copytree(digits_ptq.folder, tmp_path / "run")
    shutil.rmtree(moved / "cache")
    done = compress("explain", moved)
    assert done.code == 2
    assert "no float network any more" in done.err
