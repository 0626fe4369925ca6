"""Convert a graph to an older opset, for runtimes that read no newer one."""

from __future__ import annotations

import onnx_ir as ir

from compressor.core import UsageError

__all__ = ["OLDEST_EXPORT", "older"]

OLDEST_EXPORT = 18
"""The oldest opset that torch's exporter writes."""

_SAME = {
    # Between 13 and 18 these were only given more types, or attributes that have the older meaning by default.
    "Abs", "Add", "And", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip",
    "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "CumSum", "DepthToSpace",
    "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten",
    "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater",
    "GreaterOrEqual", "HardSigmoid", "Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "MatMul", "Max", "MaxPool", "Mean",
    "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "PRelu", "Pow", "QuantizeLinear", "RNN", "Range",
    "Reciprocal", "ReduceSum", "Relu", "Reshape", "Resize", "Round", "ScatterElements", "ScatterND", "Selu", "Shape",
    "Sigmoid", "Sign", "Sin", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Sqrt", "Squeeze",
    "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Unsqueeze", "Where", "Xor",
}  # fmt: skip
_AXES = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
}  # fmt: skip
"""Reductions whose axes became an input with opset 18."""
_NEWER: dict[str, tuple[str, int, int | str]] = {
    "BatchNormalization": ("training_mode", 14, 0), "GRU": ("layout", 14, 0), "LSTM": ("layout", 14, 0),
    "RNN": ("layout", 14, 0), "Reshape": ("allowzero", 18, 0), "Resize": ("antialias", 18, 0),
    "ScatterElements": ("reduction", 16, "none"), "ScatterND": ("reduction", 16, "none"),
}  # fmt: skip
"""An attribute that an operator was given, before which opset it is removed, and its default: the older meaning."""
_IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8}
"""The IR version that was released with each opset (from onnx's table of releases)."""
_LAST = (1 << 63) - 1
"""The end of a slice that goes to the end."""


def older(model: ir.Model, opset: int) -> None:
    """Rewrite ``model``, of opset 18, in place for an opset from 13 to 17.

    Raises UsageError naming the first operator that has no older form.
    """
    graph = model.graph
    for node in list(graph):
        if node.op_type in _AXES:
            _axes_to_attribute(node)
        elif node.op_type == "Split":
            _even(node)
        elif node.op_type == "Pad":
            if len(node.inputs) > 3 and node.inputs[3] is not None:
                raise _no_older(node, opset, "axes")
        elif node.op_type == "HardSwish" and opset < 14:
            _hard_swish(graph, node)
        elif node.op_type == "Shape" and opset < 15 and {"start", "end"} & node.attributes.keys():
            _slice_of_shape(graph, node)
        elif node.op_type in _NEWER:
            _drop_newer(node, opset)
        elif node.op_type not in _SAME and node.op_type != "HardSwish":
            raise _no_older(node, opset, None)
    graph.opset_imports[""] = opset
    model.ir_version = _IR_VERSIONS[opset]


def _no_older(node: ir.Node, opset: int, attribute: str | None) -> UsageError:
    what = f"{node.op_type} with {attribute}" if attribute else node.op_type
    return UsageError(
        f"{what} ({node.name or node.outputs[0].name}) has no form in ONNX opset {opset}, which this target reads",
        hint="write the module without it, or take a target with a newer runtime",
    )


def _axes_to_attribute(node: ir.Node) -> None:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None:
        return
    known = ir.convenience.get_const_tensor(axes)
    if known is None:
        raise UsageError(
            f"{node.op_type} ({node.name or node.outputs[0].name}) computes its axes, which older opsets cannot",
            hint="give the reduction fixed dimensions",
        )
    node.resize_inputs(1)
    node.attributes["axes"] = ir.AttrInt64s("axes", [int(a) for a in known.numpy().reshape(-1)])


def _drop_newer(node: ir.Node, opset: int) -> None:
    """Remove the attribute that the operator lacks in ``opset``. Raises UsageError where it is not the default."""
    name, since, default = _NEWER[node.op_type]
    attribute = node.attributes.get(name)
    if attribute is None or opset >= since:
        return
    if attribute.value != default and not _without_zeros(node):
        raise _no_older(node, opset, name)
    node.attributes.pop(name)


def _slice_of_shape(graph: ir.Graph, node: ir.Node) -> None:
    """Sizes of some of the axes, as a slice of all of them."""
    whole, made = ir.node("Shape", [node.inputs[0]]), node.outputs[0]
    bounds = (node.attributes.get_int("start", 0), node.attributes.get_int("end", _LAST))
    tensors = [ir.tensor([bound], ir.DataType.INT64, name=f"{made.name}_{i}") for i, bound in enumerate(bounds)]
    values = [ir.Value(name=t.name, const_value=t, type=ir.TensorType(t.dtype), shape=ir.Shape([1])) for t in tensors]
    for value in values:
        graph.register_initializer(value)
    part = ir.node("Slice", [whole.outputs[0], *values])
    whole.outputs[0].name = f"{made.name}_whole"
    ir.convenience.replace_nodes_and_values(graph, node, [node], [whole, part], node.outputs, [part.outputs[0]])


def _without_zeros(node: ir.Node) -> bool:
    """Tell whether a Reshape's shape is constant and has no zero: ``allowzero`` then changes nothing."""
    shape = ir.convenience.get_const_tensor(node.inputs[1]) if node.op_type == "Reshape" and node.inputs[1] else None
    return shape is not None and bool((shape.numpy() != 0).all())


def _even(node: ir.Node) -> None:
    """Drop the number of parts of a Split without sizes, which older opsets take from the number of outputs."""
    node.attributes.pop("num_outputs", None)


def _hard_swish(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a HardSwish, ``x * max(0, min(1, x / 6 + 1 / 2))``, by operators that opset 13 has."""
    gate = ir.node("HardSigmoid", [node.inputs[0]], {"alpha": 1 / 6, "beta": 0.5})
    product = ir.node("Mul", [node.inputs[0], gate.outputs[0]])
    gate.outputs[0].name = f"{node.outputs[0].name}_gate"
    ir.convenience.replace_nodes_and_values(graph, node, [node], [gate, product], node.outputs, [product.outputs[0]])
