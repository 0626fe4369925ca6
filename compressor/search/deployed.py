"""Untrained networks as the graphs that would be deployed: what a search times and counts the bytes of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from compressor import catalog
from compressor.core import InputSpec, Target, image_signature
from compressor.lowering.export import export
from compressor.lowering.placement import Placement
from compressor.models.common.family import Architecture
from compressor.scores.common.probe import untrained

__all__ = ["deployed_graph", "integer_ends", "quantised", "with_sizes"]


def deployed_graph(architecture: Architecture, input: InputSpec, target: Target, precision: str, seed: int) -> ir.Model:
    """Export an untrained network for images of one size and any batch; quantise it where ``precision`` is int8."""
    signature, sizes = image_signature(input, architecture.outputs)
    graph = export(untrained(architecture, seed).eval(), signature, sizes, target.opset)
    return quantised(graph, target) if precision == "int8" else graph


def quantised(model: ir.Model, target: Target, *, float_output: bool = True) -> ir.Model:
    """Quantise ``model`` in place as the target's backend wants it, with made-up ranges. Returns ``model``.

    Outputs of Relu and Clip get ranges without negative values, because kernels fuse a Relu only then. Without
    ``float_output`` the output stays quantised.
    """
    rules = catalog.find("backends", target.backend)().rules(target)
    placement = Placement(model, replace(rules, keep_float_outputs=float_output))
    tensors = set(placement.tensors)
    ranges = dict.fromkeys(tensors, (-1.0, 1.0))
    for node in model.graph:
        for output in node.outputs:
            if output.name in tensors and node.op_type in ("Relu", "Clip"):
                ranges[output.name] = (0.0, 6.0)
    placement.apply(ranges)
    return model


def integer_ends(model: ir.Model, *, source: bool = True, sink: bool = True) -> ir.Model:
    """Remove the quantiser at the input (``source``) and the dequantiser at the output (``sink``), in place.

    Between the parts of one network there are none. Returns ``model``.
    """
    graph = model.graph
    input, output = graph.inputs[0], graph.outputs[0]
    readers = [use.node for use in input.uses()]
    if source and len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
        integers = readers[0].outputs[0]
        input.type = integers.type
        ir.convenience.replace_all_uses_with(integers, input)
        graph.remove(readers[0], safe=True)
    last = output.producer()
    if sink and last is not None and last.op_type == "DequantizeLinear" and last.inputs[0] is not None:
        graph.outputs[0] = last.inputs[0]
        if not output.uses():
            graph.remove(last, safe=True)
    return model


def with_sizes(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """Give the free axes of the inputs the sizes that ``sizes`` has for them, in place. Returns ``model``."""
    for value in model.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape(
                [sizes.get(d.value or "", d) if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
            )
    return model
