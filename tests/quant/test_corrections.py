"""Corrections of a float graph: what they keep, and that a name makes the same again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import residual, run

from compressor import catalog
from compressor.core import OnnxModel, Target, UsageError
from compressor.lowering.save import save
from compressor.quant.corrections import Base, corrected, named, with_learned_rounding

RULES = catalog.find("backends", "onnxruntime")().rules(
    Target("t", "t", "onnxruntime", "here", "any", ("fp32", "int8"), 21, quirks=())
)
BATCHES = [{"input": residual().batch(8)}]


@pytest.fixture
def plain(tmp_path: Path) -> Base:
    source: OnnxModel = save(ir.from_proto(residual().model("y")), tmp_path / "plain.onnx", "fp32")
    return Base("as it is", source, {})


def quiet(message: str, done: int, total: int) -> None:
    return


def test_channel_scaling_changes_nothing_in_float(plain: Base, tmp_path: Path) -> None:
    expected = run(onnx.load(plain.source.path), BATCHES[0]["input"])[0]
    names = []
    for base in corrected(plain.source, RULES, BATCHES, tmp_path, quiet):
        names.append(base.name)
        made = run(onnx.load(base.source.path), BATCHES[0]["input"])[0]
        np.testing.assert_allclose(made, expected, atol=1e-5 * np.abs(expected).max())
    assert len(names) == 3


@pytest.mark.parametrize("before", [None, "channels scaled to like ranges (1)"])
def test_the_name_of_learned_rounding_makes_it_again(before: str | None, plain: Base, tmp_path: Path) -> None:
    """The clock says how many layers are learned; the name remembers it."""
    start = plain if before is None else named(before, plain, RULES, BATCHES, tmp_path, quiet)
    made = with_learned_rounding(start, RULES, BATCHES, 1.0, tmp_path, quiet, layers=2)
    assert made is not None
    assert made.name == f"{f'{before}, ' if before else ''}rounding of 2 layers learned"
    data = made.source.path.read_bytes()
    again = named(made.name, plain, RULES, BATCHES, tmp_path, quiet)
    assert again.source.path.read_bytes() == data
    assert again.ranges == made.ranges


def test_no_time_and_no_such_name(plain: Base, tmp_path: Path) -> None:
    assert with_learned_rounding(plain, RULES, BATCHES, 0.0, tmp_path, quiet) is None
    with pytest.raises(UsageError, match="there is none called magic"):
        named("magic", plain, RULES, BATCHES, tmp_path, quiet)
