"""FP16 in the graph: what strongly typed runtimes take their precision from."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import onnx_ir as ir
from onnxruntime.transformers.float16 import convert_float_to_float16

from compressor.core import OnnxModel
from compressor.export import save

__all__ = ["halve"]

_REDUCING = frozenset({"Add", "Clip", "GlobalAveragePool", "Max", "Mul", "Pow", "ReduceMean", "Sub"})


def halve(model: OnnxModel, path: Path) -> OnnxModel:
    """An FP16 twin of a float32 graph; its input and output stay float32, and so do standard deviations within.

    The squares that those sum overflow FP16 long before their root does.
    """
    full = onnx.load(str(model.path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each value that FP16 rounds to its own edge
        half = convert_float_to_float16(full, keep_io_types=True, node_block_list=_deviations(full))
    graph = ir.from_proto(half)
    graph.graph.sort()  # the converter puts the input's cast last
    return save(graph, path, "fp16", model)


def _deviations(model: onnx.ModelProto) -> list[str]:
    """The nodes of which a root of a mean of squares is made, back to the first mean."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, onnx.NodeProto] = {}
    waiting = [node for node in model.graph.node if node.op_type == "Sqrt"]
    while waiting:
        node = waiting.pop()
        if node.name in found:
            continue
        found[node.name] = node
        before = (made_by.get(name) for name in node.input)
        waiting += [each for each in before if each is not None and each.op_type in _REDUCING]
    means = any(node.op_type in ("GlobalAveragePool", "ReduceMean") for node in found.values())
    return sorted(found) if means else []
