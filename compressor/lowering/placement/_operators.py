"""Questions about single nodes: what the placement decides by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

__all__ = [
    "ACTIVATION_OPS",
    "WEIGHTED_OPS",
    "activations",
    "bias_tensor",
    "channel_axis",
    "channels_read",
    "has_float_arithmetic",
    "has_too_few_channels",
    "moves_values",
    "normalisation_statistics",
    "past_activation",
    "variable_inputs",
    "yields_single_rows",
]

ACTIVATION_OPS = frozenset({"Relu", "Clip"})
WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})


def activations(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the graph's inputs and every node's outputs, in the graph's order; constants are not among them."""
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def variable_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs of a node without the constants among them."""
    return [v for v in node.inputs if v is not None and ir.convenience.get_const_tensor(v) is None]


def bias_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The constant bias of an op with weights; None where it has none, or a computed one."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return ir.convenience.get_const_tensor(value) if value is not None else None


def has_float_arithmetic(node: ir.Node) -> bool:
    """Whether a node computes on float activations, with weights or with other activations.

    A Mul by a constant does not count (it stays in float), nor does arithmetic on shapes, which is in int64.
    """
    variables = variable_inputs(node)
    if any(v.dtype not in (None, ir.DataType.FLOAT) for v in variables):
        return False
    return node.op_type in WEIGHTED_OPS or len(variables) == sum(v is not None for v in node.inputs)


def normalisation_statistics(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that take a map's mean off it, and what is computed from the difference without weights.

    Squares of differences, and their means, span too many orders of magnitude for 8 bits: most channels would
    round to zero.
    """
    found: set[ir.Node] = set()
    for node in graph:
        variables = variable_inputs(node)
        if node.op_type == "Sub" and len(variables) == 2:
            mean = variables[1].producer()
            if mean is not None and mean.op_type in _MEANS and mean.inputs[0] is variables[0]:
                found |= {mean, node}
        elif node.op_type not in WEIGHTED_OPS and variables and all(v.producer() in found for v in variables):
            found.add(node)
    return found


def has_too_few_channels(node: ir.Node, min_channels: int, min_group_channels: int) -> bool:
    """Whether a convolution stays in float for its channel counts.

    ``min_channels`` is the least number of input and of output channels, unless both are multiples of 8.
    ``min_group_channels`` is the least number of input and of output channels in each group of a grouped
    transposed convolution.
    """
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    if shape is None or not shape.is_static():
        return False
    groups, (first, second) = node.attributes.get_int("group", 1), shape.numpy()[:2]
    if node.op_type == "ConvTranspose" and groups > 1 and min(first // groups, second) < min_group_channels:
        return True
    channels = (first, second * groups)
    return min(channels) < min_channels and any(c % 8 for c in channels)


def yields_single_rows(node: ir.Node) -> bool:
    """Whether a product has one row a sample, as a classifier's: at batch 1 it reads each weight once (a GEMV)."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return node.op_type == "Gemm" or (shape is not None and shape.rank() <= 2)


def moves_values(node: ir.Node, passthrough_ops: frozenset[str]) -> bool:
    """Whether a node only moves values, which are then the same as integers.

    Padding with anything but zeros (or the edge of the map itself) does more, and so does an op with a second
    output, such as the indices of a MaxPool.
    """
    if node.op_type not in passthrough_ops or (node.op_type != "Split" and len(node.outputs) > 1):
        return False
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant":
        return True
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    fill = ir.convenience.get_const_tensor(node.inputs[2])
    return fill is not None and not np.any(fill.numpy())


def past_activation(value: ir.Value) -> ir.Value:
    """What a fused kernel writes: the output of the Relu or Clip that alone reads ``value``, else ``value``."""
    readers = list(value.uses())
    if len(readers) == 1 and readers[0].node.op_type in ACTIVATION_OPS and not value.is_graph_output():
        return readers[0].node.outputs[0]
    return value


def channel_axis(node: ir.Node) -> int:
    """The axis of output channels in the weight of a node of `WEIGHTED_OPS`.

    A ConvTranspose's weight is C_in x C_out/groups x kH x kW: its groups share the channels of axis 1.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return -1 if node.op_type == "MatMul" else 1


def channels_read(node: ir.Node) -> int | None:
    """How many channels the input of a layer with a constant float weight has on axis 1; None of any other node."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type not in WEIGHTED_OPS or weight is None or not weight.is_initializer() or weight.shape is None:
        return None
    transposed = [node.attributes.get_int(name, 0) == 1 for name in ("transA", "transB")]
    if weight.dtype != ir.DataType.FLOAT or transposed[0]:
        return None
    first, second = weight.shape.numpy()[:2]
    if node.op_type == "Conv":
        return int(second) * node.attributes.get_int("group", 1)
    return int(second if transposed[1] else first)
