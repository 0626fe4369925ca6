"""What scales and shifts the channels of a convolution or matrix product, folded into its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.lowering.graph import add_constant

__all__ = ["FoldAffine"]

Affine = tuple[NDArray[np.float64], NDArray[np.float64]]
"""A scale and a shift of each output channel."""


class FoldAffine(ir.passes.InPlacePass):
    """Fold BatchNormalization, and Add, Sub, Mul and Div by a constant a channel, into the product before it.

    Products are Conv, ConvTranspose and Gemm of constant weights that nothing else reads the output of.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            while _is_product(node) and (reader := _only_reader(node)) is not None:
                if (affine := _affine(reader, node)) is None:
                    break
                _fold(model.graph, node, affine)
                made, source = reader.outputs[0], node.outputs[0]
                source.shape = made.shape or source.shape
                if made.is_graph_output():
                    source.name, made.name = made.name, f"{made.name}_folded"
                ir.convenience.replace_all_uses_with(made, source, replace_graph_outputs=True)
                model.graph.remove(reader, safe=True)
                changed = True
        return ir.passes.PassResult(model, changed)


def _is_product(node: ir.Node) -> bool:
    """Whether its weights and bias are constant, and the latter one a channel."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or node.domain:
        return False
    weight, bias = _constant(node.inputs[1]), _constant(node.inputs[2]) if len(node.inputs) > 2 else None
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    if weight is None or weight.dtype not in (np.float32, np.float64) or (has_bias and bias is None):
        return False
    if has_bias and bias is not None and bias.size not in (1, _channels(node, weight)):
        return False
    return node.op_type != "ConvTranspose" or weight.shape[0] % node.attributes.get_int("group", 1) == 0


def _channels(node: ir.Node, weight: NDArray[Any]) -> int:
    if node.op_type == "Gemm":
        return int(weight.shape[0 if node.attributes.get_int("transB", 0) else 1])
    return int(weight.shape[0] if node.op_type == "Conv" else weight.shape[1] * node.attributes.get_int("group", 1))


def _only_reader(node: ir.Node) -> ir.Node | None:
    """The only node that reads its output; None where there are more, or the output is the graph's."""
    output = node.outputs[0]
    uses = tuple(output.uses())
    if len(uses) != 1 or output.is_graph_output() or uses[0].node.graph is not node.graph:
        return None
    reader: ir.Node = uses[0].node
    return reader


def _affine(reader: ir.Node, product: ir.Node) -> Affine | None:
    """What ``reader`` does to each channel of a product's output; None where it does something else."""
    weight = _constant(product.inputs[1])
    assert weight is not None
    channels, rank = _channels(product, weight), weight.ndim
    if reader.domain:
        return None
    if reader.op_type == "BatchNormalization":
        return _normalization(reader, channels) if reader.inputs[0] is product.outputs[0] else None
    if reader.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    place = reader.inputs.index(product.outputs[0])
    value = _per_channel(_constant(reader.inputs[1 - place]), channels, rank)
    if value is None or (reader.op_type == "Div" and (place == 1 or not value.all())):
        return None
    one, none = np.ones(channels), np.zeros(channels)
    if reader.op_type == "Add":
        return one, value
    if reader.op_type == "Sub":
        return (one, -value) if place == 0 else (-one, value)
    return (value if reader.op_type == "Mul" else 1 / value), none


def _normalization(node: ir.Node, channels: int) -> Affine | None:
    found = [_constant(value) for value in node.inputs[1:]]
    known = [each.astype(np.float64).reshape(-1) for each in found if each is not None]
    trains = node.attributes.get_int("training_mode", 0) or any(output.uses() for output in node.outputs[1:])
    if len(known) != 4 or trains or any(each.size != channels for each in known):
        return None
    gamma, beta, mean, variance = known
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return scale, beta - mean * scale


def _per_channel(value: NDArray[Any] | None, channels: int, rank: int) -> NDArray[np.float64] | None:
    """A constant as one number a channel, axis 1 of ``rank``; None where it is another broadcast."""
    if value is None or value.ndim > rank:
        return None
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,))


def _fold(graph: ir.Graph, node: ir.Node, affine: Affine) -> None:
    """Give ``node`` new weights and a new bias; the old ones stay for those who share them."""
    scale, shift = affine
    weight = _constant(node.inputs[1])
    assert weight is not None
    old = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
    bias = np.zeros(1) if old is None else old.astype(np.float64).reshape(-1) * node.attributes.get_float("beta", 1.0)
    node.attributes.pop("beta", None)
    made = weight.astype(np.float64) * _along(node, weight, scale)
    name = node.outputs[0].name
    node.resize_inputs(3)
    node.replace_input_with(1, add_constant(graph, _fresh(graph, f"{name}_weight"), made.astype(weight.dtype)))
    node.replace_input_with(
        2, add_constant(graph, _fresh(graph, f"{name}_bias"), (bias * scale + shift).astype(weight.dtype))
    )


def _along(node: ir.Node, weight: NDArray[Any], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scales of output channels, in a shape that multiplies ``weight``."""
    if node.op_type == "Gemm":
        return scale[:, None] if node.attributes.get_int("transB", 0) else scale
    kernel = (1,) * (weight.ndim - 2)
    if node.op_type == "Conv":
        return scale.reshape(-1, 1, *kernel)
    # A transposed convolution's weight is input channels x output channels of one group x kernel.
    group = node.attributes.get_int("group", 1)
    return np.repeat(scale.reshape(group, -1, *kernel), weight.shape[0] // group, axis=0)


def _fresh(graph: ir.Graph, name: str) -> str:
    """A name that no initializer of the graph has."""
    made, number = name, 1
    while made in graph.initializers:
        number += 1
        made = f"{name}_{number}"
    return made


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
