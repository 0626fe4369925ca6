"""Learned rounding: against every rounding there is, on layers of all kinds, and in four bits."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from graphs import Net, decibels, quantise, residual, run

from compressor import catalog
from compressor.core import Target
from compressor.quant._layer_rows import rows_of
from compressor.quant.learned_rounding import LearnedRounding, learn

RULES = catalog.find("backends", "onnxruntime")().rules(
    Target("t", "t", "onnxruntime", "here", "any", ("fp32", "int8"), 21, quirks=("u8s8-saturates",))
)


def test_finds_nearly_the_best_of_all_roundings() -> None:
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((500, 9)) @ rng.standard_normal((9, 9)), 0)
    x -= x.mean(0)
    weight = rng.standard_normal(9)
    moments = x.T @ x / len(x)
    learned = learn(
        *(torch.tensor(a, dtype=torch.float32) for a in (weight[None, None], moments[None], moments[None])), 3
    )
    made = learned.numpy().astype(np.float64).ravel()
    step = np.abs(made).max() / 3
    assert np.allclose(made / step, np.rint(made / step), atol=1e-4)

    def error(rounded: np.ndarray) -> float:  # literally: the mean square of what the layer's output is off
        return float(np.mean((x @ rounded - x @ weight) ** 2))

    downs = np.floor(weight / step)
    every = (np.clip(downs + ups, -3, 3) * step for ups in itertools.product((0, 1), repeat=9))
    nearest = np.clip(np.rint(weight / step), -3, 3) * step
    best = min(map(error, every))
    assert best <= error(made) * 1.0001
    assert error(made) < best + 0.25 * (error(nearest) - best)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"group": 4}, {"group": 2, "strides": [2, 1]}, {"dilations": [2, 2]}],
    ids=["plain", "depthwise", "grouped", "dilated"],
)
def test_rows_are_what_a_convolution_multiplies(attributes: dict[str, object]) -> None:
    n = Net()
    model = n.model(n.conv("input", "y", cout=8, **attributes))
    batch = n.batch()
    rows = rows_of(next(iter(ir.from_proto(model).graph)))
    assert rows is not None
    assert rows.bias is not None
    made = (rows.of(batch).double() @ rows.weight.mT).permute(0, 2, 1)  # groups x channels x (samples * positions)
    y = run(model, batch)[0]
    samples, channels = y.shape[:2]
    made = made.reshape(channels, samples, -1).permute(1, 0, 2) + rows.bias[:, None]
    assert np.allclose(made.numpy(), y.reshape(samples, channels, -1), atol=1e-4)
    assert np.array_equal(rows.restored(rows.weight), _weight(model))


def test_rows_of_a_product() -> None:
    for trans in (0, 1):
        n = Net((12,))
        model = n.model(n.gemm("input", "y", 12, 7, trans))
        rows = rows_of(next(iter(ir.from_proto(model).graph)))
        assert rows is not None
        assert rows.bias is not None
        made = rows.of(n.batch())[0].double() @ rows.weight[0].T + rows.bias
        assert np.allclose(made.numpy(), run(model, n.batch())[0], atol=1e-4)
        assert np.array_equal(rows.restored(rows.weight), _weight(model))


@pytest.mark.slow
def test_four_bits_lose_less() -> None:
    n = residual()
    model, rng = n.model("y"), np.random.default_rng(3)
    mixing = rng.standard_normal((4 * 8 * 8, 4 * 8 * 8)) * 0.1
    samples = (rng.standard_normal((96, 4 * 8 * 8)) @ mixing).reshape(96, 4, 8, 8).astype(np.float32)
    bits = dict.fromkeys((t.name for t in model.graph.initializer if t.name.endswith("_w")), 4)
    graph = ir.from_proto(model)
    count = LearnedRounding(graph, RULES, bits, [{"input": samples[:64]}], 1.0, lambda *_: None).run()
    assert count == len(bits)
    learned = ir.to_proto(graph)
    held, expected = samples[64:], run(model, samples[64:])[0]
    after = decibels(expected, run(quantise(learned, RULES, samples[:64], bits=bits).proto, held)[0])
    before = decibels(expected, run(quantise(model, RULES, samples[:64], bits=bits).proto, held)[0])
    assert after > before + 2
    for tensor in learned.graph.initializer:  # on its grid: what rounding to nearest makes of it is itself
        if tensor.name in bits:
            values = onnx.numpy_helper.to_array(tensor)
            step = np.abs(values).max((1, 2, 3) if values.ndim == 4 else 1, keepdims=True) / 7
            assert np.allclose(values / step, np.rint(values / step), atol=1e-4)


def test_no_time_leaves_the_graph_as_it_is() -> None:
    n = residual()
    graph = ir.from_proto(n.model("y"))
    before = ir.to_proto(graph).SerializeToString()
    assert LearnedRounding(graph, RULES, {}, [{"input": n.batch()}], 0.0, lambda *_: None).run() == 0
    assert ir.to_proto(graph).SerializeToString() == before


def _weight(model: onnx.ModelProto) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_w"))
