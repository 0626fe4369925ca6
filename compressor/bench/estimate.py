"""An estimate of a graph's latency on a device that is not here: a roofline, as an interval, never a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt

import onnx
from onnx import TensorProto

from compressor.core import Latency, Target
from compressor.quant.audit import audit, infer_tensors

__all__ = ["estimate"]

_FUSED = frozenset({
    "Add", "Cast", "Clip", "DequantizeLinear", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mul",
    "QuantizeLinear", "Relu", "Sigmoid",
})  # fmt: skip
"""Operations that kernels do on values that they hold already."""
_FREE = frozenset({"Constant", "Flatten", "Reshape", "Shape", "Squeeze", "Unsqueeze"})
_BYTES = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.INT8: 1, TensorProto.UINT8: 1}
_LAUNCH_MS = {True: (0.001, 0.008), False: (0.0, 0.002)}
"""Milliseconds to start a kernel, at least and at most, on a GPU (with CUDA graphs, without) and on a CPU."""
_SLOWEST = 8.0
"""Kernels of small layers reach an eighth of a device's peak rates, or less: the interval's upper end."""


@dataclass(frozen=True, slots=True)
class _Group:
    """A fused kernel: operations in one precision, and bytes through memory."""

    precision: str
    macs: int
    bytes: int


def estimate(model: onnx.ModelProto, feeds: Mapping[str, Sequence[int]], target: Target) -> Latency | None:
    """Estimate the milliseconds of one run of ``model`` on ``target`` in its first power mode; None without a chip.

    ``feeds`` are the shapes of the run's inputs, by name.

    Each fused group takes the longer of its arithmetic at the precision's peak rate and its bytes at the memory's
    (the roofline model, Williams et al. 2009). That is the interval's lower end; the upper end is 8 times that, which
    small layers were measured to need, and the median is their geometric mean. No gate passes on an estimate.
    """
    chip = target.chip
    if chip is None:
        return None
    threads = target.threads if target.gpu is None and chip.compute_capability is None else chip.units
    share = min(1.0, threads / chip.units)
    near = far = 0.0
    launch = _LAUNCH_MS[chip.compute_capability is not None]
    for group in _groups(model, feeds):
        rate = chip.peak(group.precision) or chip.peak("fp32")
        assert rate is not None
        arithmetic = 2e3 * group.macs / (rate * share)
        memory = group.bytes / (chip.bandwidth_gbs * 1e6)
        near += max(arithmetic, memory) + launch[0]
        far += _SLOWEST * max(arithmetic, memory) + launch[1]
    return Latency(
        median=sqrt(near * far), p90=None, p99=None, samples=0, threads=target.threads, estimated=True,
        interval=(near, far),
    )  # fmt: skip


def _groups(model: onnx.ModelProto, feeds: Mapping[str, Sequence[int]]) -> list[_Group]:
    shapes, types = infer_tensors(model, feeds)
    layers = {layer.node: layer for layer in audit(model, feeds).layers}
    constants = {tensor.name for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}

    def size(name: str) -> int:
        """Bytes of a tensor as it lies in memory: as integers, where it comes from a DequantizeLinear."""
        made = makers.get(name)
        if made is not None and made.op_type == "DequantizeLinear":
            return size(made.input[0])
        return prod(shapes.get(name, ())) * _BYTES.get(types.get(name, TensorProto.FLOAT), 8)

    groups = []
    for node in model.graph.node:
        if node.op_type in _FUSED | _FREE:
            continue
        layer = layers.get(node.name or node.output[0])
        kind = types.get(node.output[0], TensorProto.FLOAT)
        precision = layer.precision if layer else "fp16" if kind == TensorProto.FLOAT16 else "fp32"
        moved = sum(size(name) for name in node.input if name)
        made = size(node.output[0]) if precision != "int8" else prod(shapes.get(node.output[0], ()))
        if all(name in constants for name in node.input if name):
            continue  # folded before anything runs
        groups.append(_Group(precision, layer.macs if layer else 0, moved + made))
    return groups
