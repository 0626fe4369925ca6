"""Weights of few levels as codes of a few bits, which the runtime unfolds when it loads the file."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["pack", "unfold"]

_OWN: dict[int, tuple[Any, int]] = {2: (ml_dtypes.uint2, 25), 4: (ml_dtypes.uint4, 21), 8: (np.uint8, 10)}
"""Widths that ONNX has a type for, and since which opset."""
_OVERHEAD = {True: 150, False: 350}
"""Bytes that the nodes take which unfold a weight, with and without a type of its width."""


def pack(model: ir.Model) -> dict[str, int]:
    """Store int8 weights that have few distinct levels as codes; change ``model``, and nothing that it computes.

    A weight becomes a Gather over its levels by its codes, as int32. The codes are a tensor of 2- or 4-bit
    integers where the model's opset has them (25, 21), else planes of bits, eight to a byte, that BitShift and
    BitwiseAnd take apart. All of it is constant: ONNX Runtime folds it at load, and runs the same integer
    kernels on the same integers. Returns each packed weight's bits a code.
    """
    graph = model.graph
    packed: dict[str, int] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.INT8 or not _is_weight(value):
            continue
        levels, codes = np.unique(tensor.numpy(), return_inverse=True)
        bits = max(1, (len(levels) - 1).bit_length())
        if tensor.nbytes - math.ceil(tensor.size / 8) * bits <= _OVERHEAD[_has_type(graph, bits)]:
            continue
        shape = tuple(tensor.shape.numpy())
        short = f"u{len(packed)}"  # names are bytes too
        nodes = unfold(graph, short, codes.reshape(shape), bits)
        gather = ir.node("Gather", [_constant(graph, f"{short}.l", levels), nodes[-1].outputs[0]])
        for number, node in enumerate(nodes):
            node.outputs[0].name = f"{short}.{number}"
        made = gather.outputs[0]
        made.name, made.shape, made.dtype = f"{name}_unpacked", value.shape, ir.DataType.INT8
        graph.insert_before(graph[0], [*nodes, gather])
        ir.convenience.replace_all_uses_with(value, made)
        del graph.initializers[name]
        packed[name] = bits
    return packed


def unfold(graph: ir.Graph, name: str, codes: NDArray[np.int64], bits: int) -> list[ir.Node]:
    """Store ``codes`` of so many bits under ``name``: the nodes, not yet in ``graph``, the last gives them as int32."""
    return (_typed if _has_type(graph, bits) else _planes)(graph, name, codes, bits)


def _has_type(graph: ir.Graph, bits: int) -> bool:
    return bits in _OWN and graph.opset_imports[""] >= _OWN[bits][1]


def _typed(graph: ir.Graph, name: str, codes: NDArray[np.int64], bits: int) -> list[ir.Node]:
    stored = _constant(graph, f"{name}.c", codes.astype(_OWN[bits][0]))
    return [ir.node("Cast", [stored], {"to": ir.DataType.INT32})]


def _planes(graph: ir.Graph, name: str, codes: NDArray[np.int64], bits: int) -> list[ir.Node]:
    """Eight codes are as many bytes as a code has bits, byte k their k-th bits: taken apart, summed by their worth."""
    flat = codes.reshape(-1)
    planes = np.stack([np.packbits(flat >> k & 1, bitorder="little") for k in range(bits)], axis=1)
    stored = _constant(graph, f"{name}.c", planes[:, :, None])
    shift = ir.node(
        "BitShift", [stored, _shared(graph, "shifts", np.arange(8, dtype=np.uint8))], {"direction": "RIGHT"}
    )
    mask = ir.node("BitwiseAnd", [shift.outputs[0], _shared(graph, "mask", np.ones((), np.uint8))])
    worth = _shared(graph, f"worth_{bits}", (1 << np.arange(bits, dtype=np.uint8))[None])
    nodes = [shift, mask, ir.node("MatMulInteger", [worth, mask.outputs[0]])]
    if len(flat) % 8:
        row = ir.node("Reshape", [nodes[-1].outputs[0], _shared(graph, "row", np.full(1, -1, np.int64))])
        ends = [_shared(graph, str(end), np.full(1, end, np.int64)) for end in (0, len(flat))]
        nodes += [row, ir.node("Slice", [row.outputs[0], *ends])]
    shape = _shared(graph, "x".join(map(str, codes.shape)), np.asarray(codes.shape, np.int64))
    return [*nodes, ir.node("Reshape", [nodes[-1].outputs[0], shape])]


def _is_weight(value: ir.Value) -> bool:
    """Whether DequantizeLinear alone reads it, as what it dequantises (and not, say, as its zero point)."""
    return all(use.node.op_type == "DequantizeLinear" and use.idx == 0 for use in value.uses())


def _shared(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    name = f"u_{name}"
    return graph.initializers[name] if name in graph.initializers else _constant(graph, name, array)


def _constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value
