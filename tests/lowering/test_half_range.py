"""Values that FP16 cannot hold."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxruntime
import pytest
from numpy.typing import NDArray

from compressor import catalog
from compressor.lowering.fp16 import convert_to_fp16
from compressor.lowering.half_range import beyond_half, mark_beyond_half
from compressor.lowering.placement import Placement

X = np.linspace(-1, 1, 2 * 16, dtype=np.float32).reshape(2, 16)


def scaled(factor: float) -> ir.Model:
    """Four products in a row: the second's output is some ``factor`` times what the others give."""
    weights = {f"w{i}": np.eye(16, dtype=np.float32) * [1.0, factor, 1 / factor, 1.0][i] for i in range(4)}
    nodes = [onnx.helper.make_node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"], f"product{i}") for i in range(4)]
    shape = ["batch", 16]
    graph = onnx.helper.make_graph(
        nodes, "graph", [onnx.helper.make_tensor_value_info("v0", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("v4", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weight.astype(np.float32), name) for name, weight in weights.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    made: ir.Model = ir.from_proto(model)
    common.ShapeInferencePass()(made)
    return made


def run(model: ir.Model) -> NDArray[np.float32]:
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {"v0": X})[0]
    return output


def test_nodes_that_touch_a_large_value_stay_in_float32() -> None:
    model = scaled(1e5)
    assert mark_beyond_half(model, [{"v0": X}]) == 2
    assert beyond_half(model) == {"product1", "product2"}
    convert_to_fp16(model)
    kinds = {node.op_type: node.outputs[0].dtype for node in model.graph}
    assert kinds["Cast"] is not None
    np.testing.assert_allclose(run(model), X, rtol=2e-3)


@pytest.mark.parametrize(("factor", "marked"), [(8e3, 0), (9e3, 2)])
def test_other_samples_have_headroom(factor: float, marked: int) -> None:
    """An eighth of FP16's largest value, 65,504, is the limit."""
    assert mark_beyond_half(scaled(factor), [{"v0": X}]) == marked


def test_marks_stay_in_a_file_and_keep_integers_away() -> None:
    model = scaled(1e5)
    mark_beyond_half(model, [{"v0": X}])
    again = ir.from_proto(onnx.load_from_string(ir.to_proto(model).SerializeToString()))
    rules = catalog.find("backends", "tensorrt")().rules(catalog.find_target("jetson-orin"))
    placement = Placement(again, rules)
    assert {"product1", "product2"}.isdisjoint(placement.integer_ops)
    assert "v2" not in placement.tensors


def test_bodies_read_float32() -> None:
    """A branch computes with a value of the graph around it; another only hands one on."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,16] v0, bool which) => (float[batch,16] v4) {
          wide = Mul (v0, v0)
          inner = If (which) <
            then_branch = t () => (float[batch,16] a) { a = Add (wide, v0) },
            else_branch = e () => (float[batch,16] b) { b = Identity (wide) }
          >
          v4 = Neg (inner)
        }"""
    )
    made: ir.Model = ir.from_proto(model)
    common.ShapeInferencePass()(made)
    convert_to_fp16(made)
    data = ir.to_proto(made)
    onnx.checker.check_model(data, full_check=True)
    session = onnxruntime.InferenceSession(data.SerializeToString(), providers=["CPUExecutionProvider"])
    for which, expected in ((True, -(X * X + X)), (False, -(X * X))):
        got = session.run(None, {"v0": X, "which": np.array(which)})[0]
        np.testing.assert_allclose(got, expected, atol=2e-3)
    assert {node.op_type for node in data.graph.node} == {"Cast", "If", "Mul", "Neg"}
    names = [node.name for node in ir.traversal.RecursiveGraphIterator(made.graph)]
    assert len(set(names)) == len(names)
