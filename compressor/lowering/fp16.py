"""FP16 in the graph: what strongly typed runtimes take their precision from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from compressor.core import OnnxModel
from compressor.lowering.half_range import LARGEST_HALF, beyond_half
from compressor.lowering.save import save

__all__ = ["convert_to_fp16", "fp16_twin"]

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_REDUCE = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "GlobalAveragePool"})
_PASSING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"})
_ALWAYS_FLOAT = {"Resize": (2,), "Upsample": (1,)}
"""Inputs that an op takes in float32 whatever else it computes in: scales of a resize."""


def fp16_twin(model: OnnxModel, path: Path) -> OnnxModel:
    """An FP16 twin of a float32 file; its input and output stay float32."""
    graph = ir.load(model.path)
    common.ShapeInferencePass()(graph)
    convert_to_fp16(graph)
    return save(graph, path, "fp16", model)


def convert_to_fp16(model: ir.Model) -> None:
    """Make every float tensor of ``model`` (in place) FP16, with a Cast behind the inputs and before the outputs.

    A deviation, Sqrt of a mean of squares, stays in float32 with the mean that is subtracted in it: it is taken in
    two passes, its squares overflow FP16 from 256 on, and what is small vanishes. So do nodes that `mark_beyond_half`
    has marked, and If, Loop and Scan with what their bodies read. Names stay those of the float graph. QuantizeLinear
    and DequantizeLinear become FP16 with their scales, which ONNX allows from opset 19 on.
    """
    graph = model.graph
    large = beyond_half(model)
    control = {node for node in graph if _bodies(node)}
    exact = _deviations(graph) | control | {node for node in graph if node.name in large}
    floats = {value for value in _values(graph) if value.dtype == _FLOAT}
    kept = {value for node in exact for value in node.outputs}
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    for value in floats:
        if value.producer() is not None and value not in kept:
            value.dtype = _HALF
    outputs = list(graph.outputs)
    for node in list(graph):
        wanted = _FLOAT if node in exact else _HALF
        for index, source in enumerate(node.inputs):
            if source is not None and source in floats and index not in _ALWAYS_FLOAT.get(node.op_type, ()):
                node.replace_input_with(index, _as(graph, source, wanted, casts))
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _FLOAT and node.outputs[0] in floats:
            node.attributes["to"] = ir.AttrInt64("to", int(_HALF))
        _halve_attribute(node, wanted)
    for node in control:
        _keep_what_bodies_read(graph, node, floats, casts)
    for index, value in enumerate(outputs):
        if value in floats and value.dtype == _HALF:
            name = value.name
            value.name = f"{name}_half"
            cast = ir.node("Cast", [value], {"to": int(_FLOAT)})
            made = cast.outputs[0]
            made.name, made.shape, made.dtype = name, value.shape, _FLOAT
            graph.append(cast)
            graph.outputs[index] = made
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    inner = (node for node in graph.all_nodes() if node.graph is not graph)
    for number, node in enumerate([*graph, *inner]):  # a name may stand once in a file, bodies and all
        node.name = f"{node.op_type}_{number}"


def _as(
    graph: ir.Graph, value: ir.Value, wanted: ir.DataType, casts: dict[tuple[ir.Value, ir.DataType], ir.Value]
) -> ir.Value:
    """``value`` in the precision ``wanted``: itself, its twin among the constants, or through a Cast."""
    tensor = ir.convenience.get_const_tensor(value) if value.is_initializer() else None
    if tensor is None and value.dtype == wanted:
        return value
    if tensor is not None and wanted == _FLOAT:
        return value
    if (value, wanted) in casts:
        return casts[value, wanted]
    suffix = "half" if wanted == _HALF else "float"
    if tensor is not None:
        rounded = ir.tensor(_half(tensor.numpy()), name=f"{value.name}_{suffix}")
        made = ir.Value(name=rounded.name, const_value=rounded, shape=value.shape, type=ir.TensorType(_HALF))
        graph.register_initializer(made)
    else:
        cast = ir.node("Cast", [value], {"to": int(wanted)})
        made = cast.outputs[0]
        made.name, made.shape, made.dtype = f"{value.name}_{suffix}", value.shape, wanted
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], cast)
        else:
            graph.insert_after(producer, cast)
    casts[value, wanted] = made
    return made


def _bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs that an If, Loop or Scan runs."""
    attributes = node.attributes.values()
    one = [each.as_graph() for each in attributes if each.type == ir.AttributeType.GRAPH]
    return one + [body for each in attributes if each.type == ir.AttributeType.GRAPHS for body in each.as_graphs()]


def _keep_what_bodies_read(
    graph: ir.Graph, node: ir.Node, floats: set[ir.Value], casts: dict[tuple[ir.Value, ir.DataType], ir.Value]
) -> None:
    """Give the bodies of a node, and those within them, the values of ``graph`` in float32."""
    for body in _bodies(node):
        for inner in body:
            for index, source in enumerate(inner.inputs):
                if source is not None and source in floats:
                    inner.replace_input_with(index, _as(graph, source, _FLOAT, casts))
            _keep_what_bodies_read(graph, inner, floats, casts)
        for index, value in enumerate(body.outputs):
            if value in floats:
                body.outputs[index] = _as(graph, value, _FLOAT, casts)


def _halve_attribute(node: ir.Node, wanted: ir.DataType) -> None:
    """What a Constant or ConstantOfShape holds in an attribute."""
    if wanted != _HALF or node.op_type not in ("Constant", "ConstantOfShape"):
        return
    attribute = node.attributes.get("value")
    if attribute is not None and attribute.as_tensor().dtype == _FLOAT:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(_half(attribute.as_tensor().numpy())))


def _half(array: NDArray[Any]) -> NDArray[np.float16]:
    rounded: NDArray[np.float16] = np.clip(array, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
    return rounded


def _deviations(graph: ir.Graph) -> set[ir.Node]:
    """The nodes between a tensor and the Sqrt of the mean of its squares, and that Sqrt."""
    found: set[ir.Node] = set()
    for node in graph:
        if node.op_type != "Sqrt":
            continue
        trail, seen = [node], {node}
        while trail:
            for value in trail.pop().inputs:
                made = value.producer() if value is not None else None
                if made is not None and made not in seen and _of_deviation(made):
                    seen.add(made)
                    trail.append(made)
        if any(each.op_type in _REDUCE for each in seen):
            found |= seen
    return found


def _of_deviation(node: ir.Node) -> bool:
    """A difference, a square, a mean, a constant added or multiplied, or a change of shape."""
    if node.op_type in _REDUCE | _PASSING | {"Sub", "Pow", "Sqrt"}:
        return True
    if node.op_type not in ("Add", "Mul", "Div", "Max", "Clip"):
        return False
    variables = {v for v in node.inputs if v is not None and ir.convenience.get_const_tensor(v) is None}
    return len(variables) <= 1


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
