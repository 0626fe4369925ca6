"""NNCF's ranges are the samples' own extremes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import Net
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compressor.core import UsageError
from compressor.quant.mse_ranges import least_error_ranges
from compressor.quant.ranges import Estimator, activation_ranges, widened

TENSORS = ("input", "a", "r", "left", "right", "p", "flat", "y")


def _nothing(message: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((2, 3)).astype(np.float32),
        "shape": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], "n0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "n1"),
        helper.make_node("Split", ["r"], ["left", "right"], "n2", axis=1, num_outputs=2),
        helper.make_node("GlobalAveragePool", ["right"], ["p"], "n3"),
        helper.make_node("Reshape", ["p", "shape"], ["flat"], "n4"),
        helper.make_node("MatMul", ["flat", "v"], ["y"], "n5"),
        helper.make_node("Abs", ["input"], ["also"], "n6"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("also", TensorProto.FLOAT, ["batch", 3, 6, 6]),
        ],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    rng = np.random.default_rng(1)
    # Each sample on a scale of its own, so that a mean of extremes is no extreme.
    scales = rng.uniform(0.1, 5, (11, 1, 1, 1))
    return (rng.standard_normal((11, 3, 6, 6)) * scales + rng.uniform(-1, 1, (11, 1, 1, 1))).astype(np.float32)


def _by_numpy(model: onnx.ModelProto, samples: np.ndarray, estimator: Estimator) -> dict[str, tuple[float, float]]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inner = [t for t in TENSORS if t not in ("input", "y")]
    copy.graph.output.extend(helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in inner)
    names = [o.name for o in copy.graph.output]
    values = dict(zip(names, ReferenceEvaluator(copy).run(None, {"input": samples}), strict=True)) | {"input": samples}
    ranges = {}
    for tensor in TENSORS:
        rows = values[tensor].reshape(len(samples), -1)
        low, high = rows.min(axis=1), rows.max(axis=1)
        ranges[tensor] = (low.min(), high.max()) if estimator == "minmax" else (low.mean(), high.mean())
    return ranges


@pytest.mark.parametrize("size", [1, 2, 4, 11])
@pytest.mark.parametrize("estimator", ["minmax", "mean-minmax"])
def test_ranges_are_those_of_numpy_whatever_the_batch(
    model: onnx.ModelProto, samples: np.ndarray, estimator: Estimator, size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    batches = [{"input": samples[i : i + size]} for i in range(0, len(samples), size)]  # the last is smaller
    got = activation_ranges(ir.from_proto(model), TENSORS, batches, estimator, _nothing)
    assert capfd.readouterr().out == ""
    wanted = _by_numpy(model, samples, estimator)
    assert got.keys() == set(TENSORS)
    for tensor, (low, high) in wanted.items():
        assert got[tensor] == pytest.approx((low, high), rel=1e-4, abs=1e-5), tensor


def test_only_what_was_asked_for_is_gathered_and_progress_is_told(model: onnx.ModelProto, samples: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    graph = ir.from_proto(model)
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    batches = [{"input": samples[:4]}, {"input": samples[4:8]}]
    got = activation_ranges(graph, ("r",), batches, "minmax", lambda m, done, total: told.append((done, total)))
    assert set(got) == {"r"}
    assert [t[1] for t in told] == [2] * len(told)
    assert max(done for done, _ in told) <= 2
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before  # the model is read, not changed


@pytest.mark.slow
def test_nncf_is_told_not_to_report_before_it_is_imported() -> None:
    """In a process of its own: inside pytest NNCF is silent anyway."""
    code = (
        "import compressor.quant.ranges; from nncf.telemetry.wrapper import telemetry; print(type(telemetry).__name__)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("NNCF_CI", "NNCF_DEV", "PYTEST_CURRENT_TEST")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "MagicMock\n"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(model: onnx.ModelProto, samples: np.ndarray, value: float) -> None:
    spoiled = samples.copy()
    spoiled[3, 1, 2, 2] = value
    for estimator in ("minmax", "mean-minmax"):
        with pytest.raises(UsageError, match="input") as caught:
            activation_ranges(
                ir.from_proto(model),
                ("input", "r"),
                [{"input": spoiled[:2]}, {"input": spoiled[2:]}],
                estimator,
                _nothing,
            )
        assert caught.value.hint


def test_calibration_opens_no_connection(
    model: onnx.ModelProto, samples: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    activation_ranges(ir.from_proto(model), ("r",), [{"input": samples[:2]}], "minmax", _nothing)


@pytest.mark.parametrize("symmetric", [False, True])
def test_least_squared_error_of_what_is_stored(model: onnx.ModelProto, samples: np.ndarray, symmetric: bool) -> None:
    """No range of those that are tried rounds the tensor better; the graph's input keeps its own."""
    graph = ir.from_proto(model)
    found = least_error_ranges(
        graph, [("input",), ("a",), ("r", "left", "right")], symmetric, [{"input": samples}], _nothing
    )
    assert found.ranges["input"] == (min(0.0, samples.min()), max(1.0, samples.max()))
    assert found.ranges["left"] == found.ranges["right"] == found.ranges["r"]
    values = ReferenceEvaluator(_watched(model, "a", "r")).run(["a", "r"], {"input": samples})
    for name, value in zip(("a", "r"), values, strict=True):
        exact = value.astype(np.float64)

        def error(low: float, high: float, exact: np.ndarray = exact) -> float:
            if symmetric:
                step, zero = max(-low, high) / 127, 128
            else:
                step, zero = (high - low) / 255, round(-low / ((high - low) / 255))
            return float(np.mean(((np.clip(np.rint(exact / step) + zero, 0, 255) - zero) * step - exact) ** 2))

        low, high = found.ranges[name]
        least = error(low, high)
        bottom, top = min(0.0, exact.min()), max(0.0, exact.max())
        assert least <= error(bottom, top) * 1.001
        if symmetric:
            tried = [error(-max(-bottom, top) * part, max(-bottom, top) * part) for part in (0.92, 0.84, 0.6, 0.36)]
        else:
            tried = [error(low, top * part) for part in (0.92, 0.84, 0.6, 0.36)]
        assert least <= min(tried) * 1.001


def test_means_are_of_the_channels_that_convolutions_read(model: onnx.ModelProto, samples: np.ndarray) -> None:
    found = least_error_ranges(ir.from_proto(model), [("input",)], False, [{"input": samples}], _nothing)
    assert found.means == {}, "the graph's own input is not among them"
    second = onnx.ModelProto()
    second.CopyFrom(model)
    weight = np.ones((1, 4, 1, 1), np.float32)
    second.graph.initializer.append(numpy_helper.from_array(weight, "u"))
    second.graph.node.append(helper.make_node("Conv", ["r", "u"], ["z"], "n7"))
    second.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 1, 6, 6]))
    found = least_error_ranges(ir.from_proto(second), [("input",)], False, [{"input": samples}], _nothing)
    (values,) = ReferenceEvaluator(_watched(model, "r")).run(["r"], {"input": samples})
    np.testing.assert_allclose(found.means["r"], values.mean((0, 2, 3)), rtol=1e-5)


def test_a_graph_of_a_fixed_batch_is_run_by_whole_batches(model: onnx.ModelProto, samples: np.ndarray) -> None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    ranges = [
        least_error_ranges(
            ir.from_proto(each), [("a",)], False, [{"input": samples[:4]}, {"input": samples[4:8]}], _nothing
        )
        for each in (model, fixed)
    ]
    assert ranges[0].ranges["a"] == pytest.approx(ranges[1].ranges["a"], rel=0.1)


def _watched(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


@pytest.mark.parametrize(("samples", "factor"), [(1, 1.396), (50, 1.2), (100, 1.0), (300, 1.0)])
def test_ranges_of_few_samples_are_wider(samples: int, factor: float) -> None:
    n = Net()
    n.op("Sigmoid", n.op("Relu", n.conv("input", "a"), out="b"), out="y")
    seen = {"a": (-2.0, 3.0), "b": (0.5, 3.0), "y": (0.1, 0.9)}
    made = widened(ir.from_proto(n.model("y")), seen, samples)
    assert made["a"] == pytest.approx((-2.0 * factor, 3.0 * factor))
    assert made["b"] == pytest.approx((0.5, 3.0 * factor))
    assert made["y"] == (0.1, 0.9)
