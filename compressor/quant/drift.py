"""Where a lowered graph's values drift from those of the graph that it was made from."""

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

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["drift"]

Batch = NDArray[np.float32]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_AROUND = ("Cast", "QuantizeLinear", "DequantizeLinear")


def drift(before: Path, after: Path, feeds: Feeds) -> list[dict[str, Json]]:
    """Compare each tensor that lives on in the lowered graph, in order: the op that makes it, and its SNR in dB.

    Of a layer with weights also their name and number, the type they are computed in and the bits that each takes
    in the file. The placement pass names the twin of ``x`` ``x_dequantized``; FP16 conversion keeps ``x``.
    ``feeds`` are of one run, or of as many samples as a free batch takes.
    """
    def graph(path: Path) -> Any:
        return onnx.load(str(path))

    first, last = graph(before), graph(after)
    made = {name for node in last.graph.node for name in node.output}
    twins = {}
    for node in first.graph.node:
        for name in node.output:
            twin = next((t for t in (f"{name}_dequantized", name) if t in made), None)
            if twin is not None:
                twins[name] = twin

    def run(model: Any, names: Sequence[str]) -> list[NDArray[Any]]:
        present = {o.name for o in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is raised
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # the graph's error, not this CPU's
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values: list[NDArray[Any]] = session.run(list(names), dict(feeds))
        return values

    ops = {name: node.op_type for node in first.graph.node for name in node.output}
    # Of a rectifier that shuts nearly all, what it was given is the measure: of hardly any signal all noise is much.
    given = {node.output[0]: node.input[0] for node in first.graph.node if node.op_type == "Relu"}
    given = {name: source for name, source in given.items() if name in twins and source in ops}
    stored = _stored(first.graph, last.graph)
    exact, lowered = run(first, [*twins, *given.values()]), run(last, list(twins.values()))
    sources = dict(zip(given, exact[len(twins) :], strict=True))

    def rounded(name: str, signal: Batch, noisy: Batch) -> float:
        return round(_snr(signal.astype(np.float32), noisy.astype(np.float32), sources.get(name)), 2)

    return [
        {"tensor": name, "op": ops[name], "db": rounded(name, a, b)} | stored.get(name, {})
        for name, a, b in zip(twins, exact[: len(twins)], lowered, strict=True)
        if a.dtype.kind == "f" and a.shape == b.shape
    ]


def _stored(first: Any, last: Any) -> dict[str, dict[str, Json]]:
    """By the tensor that a layer with weights makes: how these are stored in the lowered graph."""
    sizes = {each.name: math.prod(each.dims) for each in first.initializer}
    constants = {each.name: each for each in last.initializer}
    makers = {name: node for node in last.node for name in node.output}
    types = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.INT8: "int8"}
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
        if (dequantise := makers.get(source)) is not None and dequantise.op_type == "DequantizeLinear":
            source = dequantise.input[0]
        folds_packed_weights = makers.get(source)  # a few levels, by their codes
        constant = constants.get(folds_packed_weights.input[0] if folds_packed_weights is not None else source)
        if constant is None or constant.data_type not in types:
            continue
        kind = types[constant.data_type]
        bits = (constant.dims[0] - 1).bit_length() if folds_packed_weights is not None else int(kind.lstrip("fpint"))
        weight = node.input[1]
        found[name] = {"weight": weight, "elements": sizes[weight], "stored": kind, "bits": max(1, bits)}
    return found


def _snr(signal: Batch, noisy: Batch, source: Batch | None = None) -> float:
    """Signal-to-noise ratio in dB, at most 200; the signal is the stronger of ``signal`` and ``source``."""
    def power(values: Batch) -> float:
        return float(np.mean(np.square(values, dtype=np.float64)))

    noise = power(noisy - signal)
    strongest = max(power(signal), 0.0 if source is None else power(source))
    return min(200.0, 10 * float(np.log10(max(strongest, 1e-30) / max(noise, 1e-30))))
