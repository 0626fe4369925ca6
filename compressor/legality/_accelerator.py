"""How much of a graph NVIDIA's deep-learning accelerators (DLA) take; the rest falls back to the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from compressor.legality._operators import parsed

__all__ = ["Coverage", "accelerator_coverage"]

_TAKEN = frozenset({
    "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Flatten",
    "GlobalAveragePool", "GlobalMaxPool", "Gemm", "Identity", "LRN", "LeakyRelu", "Max", "MaxPool", "Min", "Mul", "Add",
    "PRelu", "QuantizeLinear", "ReduceMax", "Relu", "Sigmoid", "Slice", "Sub", "Tanh", "Resize", "Constant", "Cast",
})  # fmt: skip
"""Source: NVIDIA TensorRT developer guide, "Working with DLA", supported layers and restrictions."""
_LARGEST_KERNEL, _LARGEST_STRIDE, _LARGEST_POOL = 32, 8, 8


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a graph an accelerator takes."""

    supported: bool
    """Whether this TensorRT drives accelerators at all."""
    taken: int
    nodes: int
    left: tuple[str, ...]
    """The nodes that fall back, each with its reason."""


def accelerator_coverage(model: onnx.ModelProto, version: str) -> Coverage:
    """Judge every node for a DLA under TensorRT ``version``.

    TensorRT drove them until 10.7, and does again since 11.4 (on AGX Orin).
    """
    at = parsed(version)
    left = [f"{node.op_type} {node.name or node.output[0]}: {why}" for node, why in _left(model.graph)]
    count = len(model.graph.node)
    return Coverage(not (10, 7) < at < (11, 4), count - len(left), count, tuple(left))


def _left(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in graph.node:
        said = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.domain not in ("", "ai.onnx") or node.op_type not in _TAKEN:
            yield node, "an accelerator has no such layer"
        elif node.op_type in ("Conv", "ConvTranspose") and max(said.get("kernel_shape", [1])) > _LARGEST_KERNEL:
            yield node, f"a kernel of more than {_LARGEST_KERNEL}"
        elif node.op_type in ("Conv", "ConvTranspose") and max(said.get("strides", [1])) > _LARGEST_STRIDE:
            yield node, f"a stride of more than {_LARGEST_STRIDE}"
        elif node.op_type == "ConvTranspose" and any(said.get("pads", [0])):
            yield node, "padding of a transposed convolution"
        elif node.op_type in ("MaxPool", "AveragePool") and max(said.get("kernel_shape", [1])) > _LARGEST_POOL:
            yield node, f"a window of more than {_LARGEST_POOL}"
        elif node.op_type == "Concat" and said.get("axis", 1) != 1:
            yield node, "only channels can be joined"
