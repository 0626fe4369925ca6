"""An untrained network in the form in which it will be deployed: for timing, which knows no weights."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from compressor import catalog
from compressor.core import Target
from compressor.quant.placement import Placement

__all__ = ["file_bytes", "integer_ends", "quantised"]


def quantised(model: ir.Model, target: Target, *, float_output: bool = True) -> ir.Model:
    """Quantise ``model`` (changed in place) where the target's backend wants it, on ranges that are made up.

    What is not negative is known to be so, because kernels drop a Relu only then.
    """
    rules = catalog.find("backends", target.backend)().rules(target)
    placement = Placement(model, replace(rules, keep_float_outputs=float_output))
    wanted = set(placement.tensors)
    ranges = dict.fromkeys(wanted, (-1.0, 1.0))
    for node in model.graph:
        for output in node.outputs:
            if output.name in wanted and node.op_type in ("Relu", "Clip"):
                ranges[output.name] = (0.0, 6.0)
    placement.apply(ranges)
    return model


def integer_ends(model: ir.Model, *, source: bool = True, sink: bool = True) -> ir.Model:
    """Take off the quantiser at the input, the dequantiser at the output, or both (in place).

    Between the parts of one network there are none.
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


def file_bytes(model: ir.Model) -> int:
    """Of the file that `compressor.export.save` makes."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return int(proto.ByteSize())
