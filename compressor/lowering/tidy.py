"""The form of graph that quantisers and runtimes know best."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from compressor.opsets import OLDEST_EXPORT, older

__all__ = ["tidy"]

_INT64 = ir.TensorType(ir.DataType.INT64)


def tidy(model: ir.Model, opset: int = OLDEST_EXPORT) -> ir.Model:
    """Put a graph's graph into the form that quantisers and runtimes know best. Changes ``model``.

    An ``opset`` that the exporter does not write is lowered to here. Raises UsageError where it cannot be.
    """
    _pool_means(model.graph)
    _join_slices(model.graph)
    for step in (
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.ClearMetadataAndDocStringPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(model)
    if opset < OLDEST_EXPORT:
        older(model, opset)
    model.graph.name = "compressor"
    for number, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{number}"
    for value in _values(model.graph):
        value.metadata_props.clear()
    return model


def _pool_means(graph: ir.Graph) -> None:
    """A mean over height and width is a GlobalAveragePool, for which runtimes have integer kernels."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        source, axes = node.inputs[0], ir.convenience.get_const_tensor(node.inputs[1])
        if source is None or source.shape is None or axes is None or source.shape.rank() != 4:
            continue
        if sorted(int(a) % 4 for a in axes.numpy()) == [2, 3]:
            made = [ir.node("GlobalAveragePool", [source])]
            if node.attributes.get_int("keepdims", 1) == 0:
                made.append(ir.node("Flatten", made[0].outputs, {"axis": 1}))
            ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, made[-1].outputs)


def _join_slices(graph: ir.Graph) -> None:
    """``x[:, :, ::2, ::2]`` is exported as one Slice an axis; one Slice does them all."""
    for node in list(graph):
        first = node.inputs[0].producer() if node.op_type == "Slice" and node.inputs[0] is not None else None
        if first is None or first.op_type != "Slice" or len(first.outputs[0].uses()) != 1:
            continue
        one, other = _bounds(first), _bounds(node)
        if one is None or other is None or first.outputs[0].is_graph_output():
            continue
        axes = [*one[2], *other[2]]
        if len(set(axes)) < len(axes) or (min(axes) < 0 <= max(axes)):  # an axis may go by two names
            continue
        node.replace_input_with(0, first.inputs[0])
        for i, (a, b) in enumerate(zip(one, other, strict=True), start=1):
            name = f"{node.outputs[0].name}_{('starts', 'ends', 'axes', 'steps')[i - 1]}"
            tensor = ir.tensor(np.concatenate([a, b]), name=name)
            joined = ir.Value(name=name, const_value=tensor, shape=ir.Shape([len(a) + len(b)]), type=_INT64)
            graph.register_initializer(joined)
            node.replace_input_with(i, joined)
        graph.remove(first, safe=True)


def _bounds(node: ir.Node) -> list[NDArray[np.int64]] | None:
    """A Slice's starts, ends, axes and steps; None where one is left out or computed."""
    tensors = [ir.convenience.get_const_tensor(v) if v is not None else None for v in node.inputs[1:]]
    known = [np.atleast_1d(t.numpy()).astype(np.int64) for t in tensors if t is not None]
    return known if len(known) == 4 else None


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
