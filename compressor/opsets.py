"""Convert a graph to an older opset, for runtimes that read no newer one."""

from __future__ import annotations

import onnx_ir as ir

from compressor.core import UsageError

__all__ = ["OLDEST_EXPORT", "older"]

OLDEST_EXPORT = 18
"""The oldest opset that torch's exporter writes."""

_SAME = {
    # From opset 13 to 18 these got only more types, or attributes whose default has the older meaning.
    "Abs", "Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Conv", "ConvTranspose", "DepthToSpace", "DequantizeLinear", "Div", "Elu", "Erf", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "Identity",
    "InstanceNormalization", "LeakyRelu", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Pow",
    "PRelu", "QuantizeLinear", "Reciprocal", "ReduceSum", "Relu", "Reshape", "Resize", "Selu", "Shape", "Sigmoid",
    "Slice", "Softmax", "Softplus", "SpaceToDepth", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "Transpose",
    "Unsqueeze", "Where",
}  # fmt: skip
_AXES = {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"}
"""Reductions whose axes became an input with opset 18."""
_NEWER = {"Reshape": "allowzero", "Resize": "antialias"}
"""Attributes that an older opset lacks. Only their default has the older meaning."""
_IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8}
"""The IR version that was released with each opset (from onnx's table of releases)."""


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
        elif node.op_type in _NEWER:
            if node.attributes.get_int(_NEWER[node.op_type], 0) and not _without_zeros(node):
                raise _no_older(node, opset, _NEWER[node.op_type])
            node.attributes.pop(_NEWER[node.op_type], None)
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
