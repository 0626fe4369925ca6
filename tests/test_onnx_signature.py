"""The signature that an ONNX graph has."""

from __future__ import annotations

import onnx
import pytest
from networks import FIXED, LOOSE, TWO, fixed_batch, no_batch, two_inputs
from onnx import TensorProto, helper

from compressor.core import UsageError
from compressor.onnx_signature import onnx_signature


@pytest.mark.parametrize(("content", "expected"), [(two_inputs, TWO), (fixed_batch, FIXED), (no_batch, LOOSE)])
def test_names_types_and_axes_are_the_graphs_own(content: object, expected: object) -> None:
    assert onnx_signature(onnx.load_from_string(content())) == expected  # type: ignore[operator]


def _graph(*shapes: object, weights: int = 0) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
    constants = [helper.make_tensor(f"x{i}", TensorProto.FLOAT, [1], [1.0]) for i in range(weights)]
    nodes = [helper.make_node("Sum", [value.name for value in values], ["y"])]
    graph = helper.make_graph(nodes, "g", values, [helper.make_empty_tensor_value_info("y")], constants)
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return helper.make_model(graph)


def test_axes_without_a_name_are_named() -> None:
    found = onnx_signature(_graph([None, 3, None], [None, 3, None]))
    assert [spec.shape for spec in found.inputs] == [("batch", 3, "x0_2"), ("batch", 3, "x1_2")]
    assert found.batch == "batch"
    assert [spec.shape for spec in onnx_signature(_graph([None, 3], [1, 3])).inputs] == [("x0_0", 3), (1, 3)]


def test_weights_that_are_inputs_too_are_none() -> None:
    assert [spec.name for spec in onnx_signature(_graph([1], [None, 3], weights=1)).inputs] == ["x1"]


def test_an_input_of_no_known_rank_is_refused() -> None:
    with pytest.raises(UsageError, match="x0") as caught:
        onnx_signature(_graph(None))
    assert caught.value.hint
