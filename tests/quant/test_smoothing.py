"""Normalised channels scaled into the matrices that read them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import Net, decibels, quantise, run

from compressor import catalog
from compressor.core import Target
from compressor.quant.smoothing import Smoothing

RULES = catalog.find("backends", "onnxruntime")().rules(
    Target("t", "t", "onnxruntime", "here", "any", ("fp32", "int8"), 21, quirks=("u8s8-saturates",))
)


def normalised(*, bias: bool = True) -> Net:
    """A normalisation some of whose channels are hundreds of times as large, and two products that read it."""
    n = Net((7, 16))
    scale = np.ones(16, np.float32)
    scale[[3, 9]] = 300
    constants = [n.const("scale", scale)]
    if bias:
        constants.append(n.const("shift", n.rng.standard_normal(16).astype(np.float32)))
    n.op("LayerNormalization", "input", *constants, out="norm", axis=-1)
    for name in ("a", "b"):
        weight = n.rng.standard_normal((16, 5)) / scale[:, None]
        n.op("MatMul", "norm", n.const(f"{name}_w", weight.astype(np.float32)), out=name)
    n.op("Add", "a", "b", out="y")
    return n


def _largest(model: onnx.ModelProto, name: str, batch: np.ndarray) -> np.ndarray:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend([onnx.ValueInfoProto(name=name)])
    return np.abs(run(copy, batch)[-1]).reshape(-1, 16).max(0).astype(np.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_changes_nothing_in_float_and_loses_less_in_integers(share: float, bias: bool) -> None:
    n = normalised(bias=bias)
    model, batch = n.model("y"), n.batch(50)
    graph = ir.from_proto(model)
    smoothing = Smoothing(graph)
    assert smoothing.tensors == ("norm",)
    seen = _largest(model, "norm", batch)
    assert smoothing.scale({"norm": seen}, share) == 1
    smoothed = ir.to_proto(graph)
    expected, got = run(model, batch)[0], run(smoothed, batch)[0]
    assert np.allclose(expected, got, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    # The factors, literally, in float64.
    constants = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    rows = np.maximum(np.abs(constants["a_w"]).max(1), np.abs(constants["b_w"]).max(1))
    factors = seen**share / rows ** (1 - share)
    factors /= np.exp(np.log(factors).mean())
    made = {t.name: onnx.numpy_helper.to_array(t) for t in smoothed.graph.initializer}
    assert np.allclose(made["scale"], constants["scale"] / factors, rtol=1e-5)
    assert np.allclose(made["a_w"], constants["a_w"] * factors[:, None], rtol=1e-5)
    before = decibels(expected, run(quantise(model, RULES, batch).proto, batch)[0])
    after = decibels(expected, run(quantise(smoothed, RULES, batch).proto, batch)[0])
    assert after > before + 6


def test_leaves_alone_what_others_read() -> None:
    n = normalised()
    n.op("Relu", "norm", out="z")
    assert Smoothing(ir.from_proto(n.model("y", "z"))).tensors == ()
    assert Smoothing(ir.from_proto(normalised().model("y", "norm"))).tensors == ()
