"""Constants and values of an onnx-ir graph."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["add_constant", "describe"]


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Register ``array`` as the initializer ``name`` of ``graph``; return its value."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def describe(value: ir.Value, name: str, shape: ir.Shape | None, dtype: ir.DataType | None) -> None:
    """Set the name, the shape and the type of a new node's output."""
    assert dtype is not None
    value.name, value.shape, value.dtype = name, shape, dtype
