"""The memory that an ONNX graph would take, found from shapes alone before a runtime computes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, ValueInfoProto, helper

from compressor.core import UnsafeInput, UsageError
from compressor.frontend._onnx_tensors import value_bytes

_SMALL = 1024
"""Elements of a tensor that may be a shape, an axis or an index, rather than a weight."""
_CONSTANTS = 256 << 20
_PER_BYTE = 16
"""Bytes that may be computed from constants alone: `_CONSTANTS`, and this many more for each byte of the file."""
_VALUE = 2 << 30
"""Bytes of one value for one sample; a picture of 64 channels at 4K is no larger."""

Graphs = Callable[[GraphProto, Path], Iterator[GraphProto]]


def check_sizes(model: ModelProto, graphs: Graphs, held: int, path: Path) -> None:
    """Check sizes. Raises UnsafeInput for a huge value (free axes count as 1), UsageError where the graph is not valid.

    ``graphs`` walks a graph and those inside of it, ``held`` is the model's size in bytes. Sizes that depend on the
    input's values are not known here.
    """
    light = _without_weights(model)
    for inner in graphs(light.graph, path):
        for value in inner.output:  # what it claims would be believed
            value.ClearField("type")
        del inner.value_info[:]
    try:
        onnx.checker.check_model(light)
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{path} is not a valid ONNX model: {reason}", hint="export it again") from error
    # What the file itself says of its values is a claim like any other.
    for graph in (*graphs(inferred, path), *graphs(model.graph, path)):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if (bytes := _bytes(value)) > _VALUE:
                raise UnsafeInput(f"{path}: {value.name!r} takes {bytes:,} bytes", hint="give a model of usual sizes")
    weights = {tensor.name for tensor in model.graph.initializer}
    given = {value.name for value in model.graph.input} - weights
    made = sum(_bytes(value) for value in _constants(inferred, given))
    if made > _CONSTANTS + _PER_BYTE * held:
        raise UnsafeInput(
            f"{path} makes {made:,} bytes out of constants, and holds {held:,}", hint="give a model of usual sizes"
        )


def _without_weights(model: ModelProto) -> ModelProto:
    """Return the same graph for one sample, with large weights as inputs, as only their shapes are needed."""
    graph = GraphProto(name=model.graph.name or "graph", node=model.graph.node)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights:
            graph.input.append(value)
            for axis in graph.input[-1].type.tensor_type.shape.dim:
                if not axis.HasField("dim_value"):
                    axis.dim_value = 1
    for tensor in model.graph.initializer:
        if value_bytes(tensor.data_type, list(tensor.dims)) <= _SMALL * 8:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    # From version 4 on an initialiser need not be an input.
    return ModelProto(ir_version=max(4, model.ir_version), opset_import=model.opset_import, graph=graph)


def _constants(graph: GraphProto, given: Set[str]) -> Iterator[ValueInfoProto]:
    """Yield the computed values of a graph that do not depend on the inputs ``given``."""
    shapes = {value.name: value for value in (*graph.value_info, *graph.output)}
    dynamic = set(given)
    for node in graph.node:
        if not dynamic.isdisjoint(node.input):
            dynamic.update(node.output)
        elif node.op_type != "Constant":
            yield from (shapes[name] for name in node.output if name in shapes)


def _bytes(value: ValueInfoProto) -> int:
    tensor = value.type.tensor_type
    dims = [axis.dim_value if axis.HasField("dim_value") else 1 for axis in tensor.shape.dim]
    return value_bytes(tensor.elem_type, [max(0, size) for size in dims])
