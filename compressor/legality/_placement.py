"""Whether a quantised graph was placed by these rules, or by another runtime's."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from compressor.core import QdqRules
from compressor.legality._fault import Fault

__all__ = ["placement_faults"]

_TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu"})


def placement_faults(model: onnx.ModelProto, rules: QdqRules, runtime: str) -> list[Fault]:
    """The convolutions that ``runtime`` would not fuse as this graph has them; empty for a graph of floats.

    A graph that was quantised for one runtime is right on another, and may be slower there than its floats.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    hint = f"quantise for {runtime}: compress run with a target of that runtime"
    faults = []
    for node in graph.node:
        if node.op_type not in rules.quantizable_ops & {"Conv", "ConvTranspose"}:
            continue
        source = makers.get(node.input[0])
        if source is None or source.op_type != "DequantizeLinear":
            continue
        name = f"{node.op_type} {node.name or node.output[0]}"
        zero = constants.get(source.input[2]) if len(source.input) > 2 else None
        if zero is None or zero.data_type != _TYPES[rules.activation_dtype]:
            what = f"its activations are not {rules.activation_dtype}"
            faults.append(Fault("placement", name, what, hint))
            continue
        after = node.output[0]
        while len(follow := readers.get(after, [])) == 1 and follow[0].op_type in _ACTIVATIONS:
            after = follow[0].output[0]
        quantised = any(reader.op_type == "QuantizeLinear" for reader in follow)
        if node.op_type in rules.quantize_outputs and not quantised and after not in outputs:
            faults.append(Fault("placement", name, "its output is not quantised", hint))
        elif node.op_type not in rules.quantize_outputs and quantised and after is node.output[0]:
            only_pairs = len(follow) == 1 and _read_by_sums(follow[0], readers)
            if only_pairs:
                faults.append(Fault("placement", name, "its output is quantised before it is summed", hint))
    return faults


def _read_by_sums(quantise: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether what is quantised here goes into sums alone: into a kernel that would have added it in passing."""
    pairs = readers.get(quantise.output[0], [])
    last = [reader for pair in pairs for reader in readers.get(pair.output[0], [])]
    return bool(last) and all(reader.op_type == "Add" for reader in last)
