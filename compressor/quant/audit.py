"""The precision of each layer of a graph, and its share of the multiplications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx
from onnx import TensorProto

__all__ = ["Audit", "Layer", "audit", "infer_tensors"]

_INTEGERS = frozenset({TensorProto.INT8, TensorProto.UINT8})


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or matrix product."""

    node: str
    op: str
    macs: int
    """Multiplications of one run."""
    precision: str
    """``int8`` where both its factors come from a DequantizeLinear of 8-bit integers; else its tensors' own type."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The layers of a graph."""

    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def int8_share(self) -> float:
        """The share of all multiplications that is in INT8; 1 where there are none."""
        return sum(x.macs for x in self.layers if x.precision == "int8") / self.macs if self.macs else 1.0


def audit(model: onnx.ModelProto, feeds: Mapping[str, Sequence[int]]) -> Audit:
    """Audit every convolution and matrix product of ``model``, for one run with inputs of the shapes ``feeds``."""
    shapes, types = infer_tensors(model, feeds)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}

    def integer(name: str) -> bool:
        pair = makers.get(name)
        if pair is None or pair.op_type != "DequantizeLinear":
            return False
        source = pair.input[0]
        return (constants[source].data_type if source in constants else types.get(source)) in _INTEGERS

    layers = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        kind = types.get(node.output[0], TensorProto.FLOAT)
        precision = "fp16" if kind == TensorProto.FLOAT16 else "fp32"
        if all(integer(name) for name in node.input[:2]):
            precision = "int8"
        layers.append(Layer(node.name or node.output[0], node.op_type, _macs(node, shapes), precision))
    return Audit(tuple(layers))


def infer_tensors(
    model: onnx.ModelProto, feeds: Mapping[str, Sequence[int]]
) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, int]]:
    """Infer the shape and the type of every tensor, for one run with inputs of the shapes ``feeds``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, feeds.get(value.name, ()), strict=False):
            dimension.dim_value = size
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    types: dict[str, int] = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        # A dimension that cannot be inferred counts as one: it is the batch, hidden by a Reshape.
        shapes[value.name] = tuple(d.dim_value or 1 for d in kind.shape.dim)
        types[value.name] = kind.elem_type
    return shapes, types


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    made, weight = shapes.get(node.output[0], ()), shapes.get(node.input[1], ())
    if node.op_type == "Conv":
        return prod(made) * prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return prod(shapes.get(node.input[0], ())) * prod(weight[1:])
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    inner = weight[-1] if transposed else weight[-2] if len(weight) > 1 else 1
    return prod(made) * inner
