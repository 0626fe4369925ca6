"""Weights with few distinct values as indices of a few bits, which the runtime unpacks when it loads the file."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.lowering.graph import add_constant

__all__ = ["pack_weights", "unpacking_nodes"]

_TYPES: dict[int, tuple[Any, int]] = {2: (ml_dtypes.uint2, 25), 4: (ml_dtypes.uint4, 21), 8: (np.uint8, 10)}
"""The widths that ONNX has a type for: the type, and the first opset that has it."""
_OVERHEAD = {True: 150, False: 350}
"""Bytes of the nodes that unpack one weight, with and without a type of its width."""


def pack_weights(model: ir.Model) -> dict[str, int]:
    """Pack the int8 weights that have few distinct values; change ``model``, and nothing that it computes.

    A weight becomes a Gather from the table of its values by int32 indices. The indices are stored as 2- or 4-bit
    integers where the model's opset has them (25, 21), else as bit planes, eight to a byte, which BitShift and
    BitwiseAnd take apart. All added nodes work on constants: ONNX Runtime folds them at load, and runs the same
    integer kernels on the same integers. Returns the bits of each packed weight's indices.
    """
    graph = model.graph
    packed: dict[str, int] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.INT8 or not _is_weight(value):
            continue
        table, indices = np.unique(tensor.numpy(), return_inverse=True)
        bits = max(1, (len(table) - 1).bit_length())
        if tensor.nbytes - math.ceil(tensor.size / 8) * bits <= _OVERHEAD[_has_type(graph, bits)]:
            continue
        shape = tuple(tensor.shape.numpy())
        short = f"u{len(packed)}"  # names are bytes too
        nodes = unpacking_nodes(graph, short, indices.reshape(shape), bits)
        gather = ir.node("Gather", [add_constant(graph, f"{short}.l", table), nodes[-1].outputs[0]])
        for number, node in enumerate(nodes):
            node.outputs[0].name = f"{short}.{number}"
        made = gather.outputs[0]
        made.name, made.shape, made.dtype = f"{name}_unpacked", value.shape, ir.DataType.INT8
        graph.insert_before(graph[0], [*nodes, gather])
        ir.convenience.replace_all_uses_with(value, made)
        del graph.initializers[name]
        packed[name] = bits
    return packed


def unpacking_nodes(graph: ir.Graph, name: str, indices: NDArray[np.int64], bits: int) -> list[ir.Node]:
    """Store ``indices`` of so many bits as constants of ``graph`` whose names begin with ``name``.

    Returns the nodes that unpack them, not yet in the graph: the last one's output is the indices as int32.
    """
    return (_typed if _has_type(graph, bits) else _bit_planes)(graph, name, indices, bits)


def _has_type(graph: ir.Graph, bits: int) -> bool:
    return bits in _TYPES and graph.opset_imports[""] >= _TYPES[bits][1]


def _typed(graph: ir.Graph, name: str, indices: NDArray[np.int64], bits: int) -> list[ir.Node]:
    stored = add_constant(graph, f"{name}.c", indices.astype(_TYPES[bits][0]))
    return [ir.node("Cast", [stored], {"to": ir.DataType.INT32})]


def _bit_planes(graph: ir.Graph, name: str, indices: NDArray[np.int64], bits: int) -> list[ir.Node]:
    """Store eight indices in as many bytes as an index has bits; byte k holds their k-th bits.

    The nodes take the bits apart and sum them, each times its power of two.
    """
    flat = indices.reshape(-1)
    planes = np.stack([np.packbits(flat >> k & 1, bitorder="little") for k in range(bits)], axis=1)
    stored = add_constant(graph, f"{name}.c", planes[:, :, None])
    shift = ir.node(
        "BitShift", [stored, _shared(graph, "shifts", np.arange(8, dtype=np.uint8))], {"direction": "RIGHT"}
    )
    mask = ir.node("BitwiseAnd", [shift.outputs[0], _shared(graph, "mask", np.ones((), np.uint8))])
    powers = _shared(graph, f"worth_{bits}", (1 << np.arange(bits, dtype=np.uint8))[None])
    nodes = [shift, mask, ir.node("MatMulInteger", [powers, mask.outputs[0]])]
    if len(flat) % 8:
        row = ir.node("Reshape", [nodes[-1].outputs[0], _shared(graph, "row", np.full(1, -1, np.int64))])
        ends = [_shared(graph, str(end), np.full(1, end, np.int64)) for end in (0, len(flat))]
        nodes += [row, ir.node("Slice", [row.outputs[0], *ends])]
    shape = _shared(graph, "x".join(map(str, indices.shape)), np.asarray(indices.shape, np.int64))
    return [*nodes, ir.node("Reshape", [nodes[-1].outputs[0], shape])]


def _is_weight(value: ir.Value) -> bool:
    """Whether only DequantizeLinear nodes read it, as their first input: a zero point is read as the third."""
    return all(use.node.op_type == "DequantizeLinear" and use.idx == 0 for use in value.uses())


def _shared(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """The constant ``u_NAME``, which all packed weights use."""
    name = f"u_{name}"
    return graph.initializers[name] if name in graph.initializers else add_constant(graph, name, array)
