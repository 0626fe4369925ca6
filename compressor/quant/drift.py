"""How far each tensor of a lowered graph is from the same tensor of the graph that it was made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from compressor.core import Json
from compressor.quant.audit import infer_tensors

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["drift"]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_AROUND = ("Cast", "QuantizeLinear", "DequantizeLinear")
_TYPES = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.INT8: "int8"}
_MAX_DB = 200.0
_MASKS = 1e30
"""The magnitude from which a number stands for infinity, as attention masks have them."""


def drift(before: Path, after: Path, feeds: Feeds) -> list[dict[str, Json]]:
    """Compare each tensor that both graphs compute, in the graph's order.

    An entry has the ``tensor``, the ``op`` that makes it, and its signal-to-noise ratio ``db``; of a layer with
    weights also the ``weight``, its ``elements``, the type that they are ``stored`` in and the ``bits`` that each
    takes in the file. The placement names the twin of a tensor ``x`` ``x_dequantized``; FP16 conversion keeps ``x``.
    ``overflows`` is true where a value is infinite there that the first graph has a number for.
    ``feeds`` are of one run, or of as many samples as a free batch takes.
    """
    first, last = onnx.load(str(before)), onnx.load(str(after))
    typed, typed_last = _typed(first), _typed(last)
    pairs = _twins(first.graph, last.graph).items()
    twins = {name: twin for name, twin in pairs if name in typed and twin in typed_last}
    ops = {name: node.op_type for node in first.graph.node for name in node.output}
    # Where a Relu leaves little of a signal, any noise is large beside it: its input is the measure then.
    relu_inputs = {node.output[0]: node.input[0] for node in first.graph.node if node.op_type == "Relu"}
    relu_inputs = {name: source for name, source in relu_inputs.items() if name in twins and source in ops}
    stored = _stored(first.graph, last.graph)
    exact = _run(first, [*twins, *relu_inputs.values()], feeds)
    lowered = _run(last, list(twins.values()), feeds)
    sources = dict(zip(relu_inputs, exact[len(twins) :], strict=True))
    return [
        {"tensor": name, "op": ops[name], "db": round(_snr(signal, noisy, sources.get(name)), 2)}
        | ({"overflows": True} if _overflows(signal, noisy) else {})
        | stored.get(name, {})
        for name, signal, noisy in zip(twins, exact[: len(twins)], lowered, strict=True)
        if signal.dtype.kind == "f" and signal.shape == noisy.shape
    ]


def _twins(first: Any, last: Any) -> dict[str, str]:
    """The tensors that nodes of ``first`` make and ``last`` has too, with their names there."""
    made = {name for node in last.node for name in node.output}
    twins = {}
    for node in first.node:
        for name in node.output:
            twin = next((t for t in (f"{name}_dequantized", name) if t in made), None)
            if twin is not None:
                twins[name] = twin
    return twins


def _typed(model: onnx.ModelProto) -> set[str]:
    """The names of tensors whose type is known: no other can be an output of a graph."""
    _, types = infer_tensors(model, {})
    return {name for name, kind in types.items() if kind}


def _run(model: Any, names: Sequence[str], feeds: Feeds) -> list[NDArray[Any]]:
    """The tensors ``names`` of a run in which quantisation is evaluated in float, free of this CPU's kernels."""
    present = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so nothing needs to be printed
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values: list[NDArray[Any]] = session.run(list(names), dict(feeds))
    return values


def _stored(first: Any, last: Any) -> dict[str, dict[str, Json]]:
    """How ``last`` stores the weights of the layers of ``first``, by the tensor that a layer makes."""
    sizes = {each.name: math.prod(each.dims) for each in first.initializer}
    constants = {each.name: each for each in last.initializer}
    makers = {name: node for node in last.node for name in node.output}
    found: dict[str, dict[str, Json]] = {}
    for node in first.node:
        if node.op_type not in _WEIGHTED or len(node.input) < 2 or node.input[1] not in sizes:
            continue
        name = node.output[0]
        maker = makers.get(f"{name}_unquantized", makers.get(name))
        while maker is not None and maker.op_type in _AROUND:
            maker = makers.get(maker.input[0])
        if maker is None or maker.op_type != node.op_type:
            continue
        source = maker.input[1]
        if (dequantize := makers.get(source)) is not None and dequantize.op_type == "DequantizeLinear":
            source = dequantize.input[0]
        gather = makers.get(source)  # of a packed weight: from the table of its values
        constant = constants.get(gather.input[0] if gather is not None else source)
        if constant is None or constant.data_type not in _TYPES:
            continue
        kind = _TYPES[constant.data_type]
        bits = (constant.dims[0] - 1).bit_length() if gather is not None else int(kind.lstrip("fpint"))
        weight = node.input[1]
        found[name] = {"weight": weight, "elements": sizes[weight], "stored": kind, "bits": max(1, bits)}
    return found


def _snr(signal: NDArray[Any], noisy: NDArray[Any], source: NDArray[Any] | None = None) -> float:
    """The signal-to-noise ratio in dB, within ±200; the signal is the stronger of ``signal`` and ``source``."""
    if _overflows(signal, noisy):
        return -_MAX_DB
    signal, noisy = signal.astype(np.float32), noisy.astype(np.float32)
    power, noise = _power(signal), _power(noisy - signal)
    if source is not None:
        power = max(power, _power(source))
    return min(_MAX_DB, 10 * float(np.log10(max(power, 1e-30) / max(noise, 1e-30))))


def _overflows(signal: NDArray[Any], noisy: NDArray[Any]) -> bool:
    """Whether a number became infinite, or none; those that stand for infinity, as masks have them, may."""
    return bool(np.any((np.abs(signal) < _MASKS) & ~np.isfinite(noisy)))


def _power(values: NDArray[Any]) -> float:
    return float(np.mean(np.square(values, dtype=np.float64)))
