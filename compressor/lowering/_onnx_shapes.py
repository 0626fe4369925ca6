"""Shapes inside an ONNX graph: computed anew, and constant where they can be."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.optimizer import fold_constants

from compressor.lowering.graph import add_constant

__all__ = ["DropFlattens", "DropShapes", "FixReshapes", "FoldConstants"]

_LARGEST = 1 << 22
"""Elements of a constant that may be folded or result from it; as many as four large images have."""
_SMALL = 1024
"""Elements of a constant that may be a shape or a padding."""


class DropShapes(ir.passes.InPlacePass):
    """Forget what the file says of the shapes of computed values: axes of one made-up name may differ in size."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in graph:
                for value in node.outputs:
                    value.shape = None
        return ir.passes.PassResult(model, True)


class FoldConstants(ir.passes.InPlacePass):
    """Compute what does not depend on the inputs' values, shapes that are known included.

    DequantizeLinear of a constant stays: it is how a quantised weight is stored.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        result = fold_constants(
            model, onnx_shape_inference=True, input_size_limit=_LARGEST, output_size_limit=_LARGEST, should_fold=_folds
        )
        return ir.passes.PassResult(model, bool(result))


def _folds(node: ir.Node) -> bool | None:
    """A small ConstantOfShape is folded too, as it is part of what computes a shape; None leaves it to onnxscript."""
    if node.op_type != "ConstantOfShape" or node.inputs[0] is None:
        return None
    shape = ir.convenience.get_const_tensor(node.inputs[0])
    return True if shape is not None and np.prod(shape.numpy()) <= _SMALL else None


class FixReshapes(ir.passes.InPlacePass):
    """Give a Reshape a constant shape where all sizes of its output but one are known, or are its input's own."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            wanted = node.inputs[1] if node.op_type == "Reshape" and not node.domain else None
            if wanted is None or ir.convenience.get_const_tensor(wanted) is not None:
                continue
            if (shape := _constant_shape(node)) is not None:
                name = f"{node.outputs[0].name}_shape"
                node.replace_input_with(1, add_constant(model.graph, name, shape))
                node.attributes.pop("allowzero", None)
                changed = True
        return ir.passes.PassResult(model, changed)


def _constant_shape(node: ir.Node) -> NDArray[np.int64] | None:
    """The sizes of a Reshape's output, 0 for one of its input and -1 for one that follows; None where more are free."""
    source, made = node.inputs[0], node.outputs[0].shape
    if made is None or 0 in made:
        return None
    given = [] if source is None or source.shape is None else list(source.shape)
    sizes, unknown = [], 0
    for axis, size in enumerate(made):
        if isinstance(size, int):
            sizes.append(size)
        elif size.value is not None and axis < len(given) and given[axis] == size:
            sizes.append(0)
        else:
            sizes.append(-1)
            unknown += 1
    return np.array(sizes, np.int64) if unknown <= 1 else None


class DropFlattens(ir.passes.InPlacePass):
    """Remove the Flatten of a matrix, and the pair of Flatten and Reshape around a Softmax over the last axis.

    ONNX's converter writes the latter for every Softmax from before opset 13.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type != "Flatten" or node.domain or (source := node.inputs[0]) is None or source.shape is None:
                continue
            rank = source.shape.rank()
            if node.attributes.get_int("axis", 1) % max(1, rank) != rank - 1:
                continue
            softmax = _only_consumer(node, "Softmax")
            if rank == 2:
                changed |= _bypass(model.graph, node)
            elif softmax is not None and softmax.attributes.get_int("axis", -1) in (1, -1):
                reshape = _only_consumer(softmax, "Reshape")
                if reshape is not None and reshape.outputs[0].shape == source.shape:
                    softmax.outputs[0].shape = source.shape
                    softmax.attributes["axis"] = ir.AttrInt64("axis", -1)
                    changed |= _bypass(model.graph, reshape) and _bypass(model.graph, node)
        return ir.passes.PassResult(model, changed)


def _only_consumer(node: ir.Node, op_type: str) -> ir.Node | None:
    """The only node that reads the output of ``node``, where it is an ``op_type`` that reads it first."""
    uses, output = tuple(node.outputs[0].uses()), node.outputs[0]
    if len(uses) != 1 or output.is_graph_output() or uses[0].node.op_type != op_type or uses[0].idx != 0:
        return None
    reader: ir.Node = uses[0].node
    return reader


def _bypass(graph: ir.Graph, node: ir.Node) -> bool:
    """Remove a node that gives its first input on; False, and nothing done, where that is an input of the graph."""
    source, made = node.inputs[0], node.outputs[0]
    assert source is not None
    if made.is_graph_output():
        if source.producer() is None or source.is_graph_output():
            return False
        source.name, made.name = made.name, f"{made.name}_dropped"
    ir.convenience.replace_all_uses_with(made, source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True
