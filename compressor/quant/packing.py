"""Weights of few levels as 2- or 4-bit codes, which the runtime unfolds when it loads the file."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx_ir as ir

__all__ = ["OPSET", "pack"]

OPSET = 25
"""From which on ONNX has 2-bit integers; 4-bit ones are older."""

_WIDTHS = ((2, ml_dtypes.uint2), (4, ml_dtypes.uint4))
_OVERHEAD = 200
"""Bytes that two more nodes and their names take."""


def pack(model: ir.Model, opset: int) -> dict[str, int]:
    """Store int8 weights that have few distinct levels as codes; change ``model``, and nothing that it computes.

    A weight becomes codes -> Cast to int32 -> Gather over its levels: all of it constant, so ONNX Runtime
    folds it at load, and runs the same integer kernels on the same integers. Returns each packed weight's
    bits a code.
    """
    graph = model.graph
    packed: dict[str, int] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.INT8 or not _is_weight(value):
            continue
        levels, codes = np.unique(tensor.numpy(), return_inverse=True)
        fitting = [(b, kind) for b, kind in _WIDTHS if len(levels) <= 2**b and (b > 2 or opset >= OPSET)]
        if not fitting or tensor.nbytes - math.ceil(tensor.size * fitting[0][0] / 8) <= _OVERHEAD:
            continue
        bits, kind = fitting[0]
        codes = codes.reshape(tensor.shape.numpy()).astype(kind)
        cast = ir.node("Cast", [_constant(graph, f"{name}_codes", codes)], {"to": ir.DataType.INT32})
        gather = ir.node("Gather", [_constant(graph, f"{name}_levels", levels), cast.outputs[0]])
        cast.outputs[0].name, gather.outputs[0].name = f"{name}_indices", f"{name}_unpacked"
        gather.outputs[0].shape, gather.outputs[0].dtype = value.shape, ir.DataType.INT8
        graph.insert_before(graph[0], [cast, gather])
        ir.convenience.replace_all_uses_with(value, gather.outputs[0])
        del graph.initializers[name]
        packed[name] = bits
    for number, node in enumerate(graph):
        node.name = f"{node.op_type}_{number}"
    if any(bits == 2 for bits in packed.values()):
        graph.opset_imports[""] = opset
    return packed


def _is_weight(value: ir.Value) -> bool:
    """Whether DequantizeLinear alone reads it, as what it dequantises (and not, say, as its zero point)."""
    return all(use.node.op_type == "DequantizeLinear" and use.idx == 0 for use in value.uses())


def _constant(graph: ir.Graph, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value
