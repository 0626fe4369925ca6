"""Embedding tables as integers: a Gather reads 8-bit rows, and what it read is dequantised."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compressor.lowering.graph import add_constant, describe
from compressor.lowering.placement._qparams import TINY

__all__ = ["quantize_tables", "reads_table"]

_LEAST = 2**16
"""Elements of a table under which there is nothing to save."""


def reads_table(node: ir.Node) -> bool:
    """Whether a node takes rows of a large constant matrix, as an embedding does."""
    table = node.inputs[0] if node.op_type == "Gather" else None
    if table is None or table.dtype is not ir.DataType.FLOAT or table.is_graph_output():
        return False
    if not all(_takes_rows(use.node, table) for use in table.uses()):
        return False  # a layer's weight too, which would be kept twice
    tensor = ir.convenience.get_const_tensor(table)
    return tensor is not None and len(tensor.shape) == 2 and tensor.size >= _LEAST


def _takes_rows(node: ir.Node, table: ir.Value) -> bool:
    return node.op_type == "Gather" and node.inputs[0] is table and node.attributes.get_int("axis", 0) in (0, -2)


def quantize_tables(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    """Store the tables that ``nodes`` read as int8, symmetric, with a scale for each column."""
    stored: dict[str, list[ir.Value]] = {}
    for node in nodes:
        table, made = node.inputs[0], node.outputs[0]
        assert table is not None
        if (name := table.name or "") not in stored:
            stored[name] = _stored(graph, table)
        integers, *qparams = stored[name]
        gather = ir.node("Gather", [integers, node.inputs[1]], node.attributes)
        describe(gather.outputs[0], f"{made.name}_int8", made.shape, ir.DataType.INT8)
        dequantise = ir.node("DequantizeLinear", [gather.outputs[0], *qparams], {"axis": -1})
        twin = dequantise.outputs[0]
        graph.insert_after(node, [gather, dequantise])
        ir.convenience.replace_all_uses_with(made, twin, replace_graph_outputs=True)
        describe(twin, made.name or "", made.shape, ir.DataType.FLOAT)
        graph.remove(node, safe=True)


def _stored(graph: ir.Graph, table: ir.Value) -> list[ir.Value]:
    """Store a table as integers; return them, their scales and their zero points."""
    tensor = ir.convenience.get_const_tensor(table)
    assert tensor is not None
    values = tensor.numpy()
    scale = np.maximum(np.abs(values).max(axis=0) / 127, TINY).astype(np.float32)
    integers = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
    arrays = {"int8": integers, "column_scale": scale, "column_zero_point": np.zeros(scale.shape, np.int8)}
    return [add_constant(graph, f"{table.name}_{name}", array) for name, array in arrays.items()]
