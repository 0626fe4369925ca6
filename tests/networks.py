"""ONNX files of networks that are no image classifier: several inputs and outputs, other types, fixed batches."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from compressor.core import Signature, TensorSpec

__all__ = [
    "FIXED",
    "LOOSE",
    "STATE",
    "TWO",
    "WHOLE",
    "fixed_batch",
    "no_batch",
    "two_inputs",
    "whole_array",
    "with_state",
]

WIDTH, WORDS, LENGTH = 4, 10, 6

TWO = Signature(
    (TensorSpec("features", "float32", ("batch", WIDTH)), TensorSpec("tokens", "int64", ("batch", "length"))),
    (TensorSpec("scores", "float32", ("batch", WIDTH)), TensorSpec("best", "int64", ("batch",))),
)
FIXED = Signature((TensorSpec("x", "float32", (3, WIDTH)),), (TensorSpec("y", "float32", (3, WIDTH)),))
LOOSE = Signature(
    (TensorSpec("x", "float32", (1, WIDTH)), TensorSpec("gain", "float32", ())),
    (TensorSpec("y", "float32", (1, WIDTH)), TensorSpec("peak", "float32", ())),
)
STATE = Signature(
    (TensorSpec("state", "float32", (2, 1, WIDTH)), TensorSpec("x", "float32", (1, WIDTH))),
    (TensorSpec("y", "float32", (1, WIDTH)), TensorSpec("new_state", "float32", (2, 1, WIDTH))),
)
WHOLE = Signature(
    (TensorSpec("x", "float32", (5,)),),
    (TensorSpec("low", "float32", (1,)), TensorSpec("high", "float32", (2,))),
)


def two_inputs() -> bytes:
    """``scores`` = features x W + the mean of the tokens' rows of a table; ``best`` = its largest entry's index."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["features", "w"], ["made"]),
        helper.make_node("Add", ["made", "mean"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(rng.standard_normal((WORDS, WIDTH)).astype(np.float32), "table"),
        numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    return _model(nodes, TWO, constants)


def fixed_batch() -> bytes:
    """``y`` = x doubled, three samples at a time."""
    return _model([helper.make_node("Add", ["x", "x"], ["y"])], FIXED, [])


def no_batch() -> bytes:
    """``y`` = x times ``gain``, a scalar; ``peak`` = its largest entry, a scalar too."""
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["y"]),
        helper.make_node("ReduceMax", ["y"], ["peak"], keepdims=0),
    ]
    return _model(nodes, LOOSE, [])


def with_state() -> bytes:
    """A step of a recurrence whose state has two rows a sample, and stands first."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("ReduceSum", ["state", "axis"], ["held"], keepdims=0),
        helper.make_node("Add", ["x", "held"], ["sum"]),
        helper.make_node("Gemm", ["sum", "w"], ["made"]),
        helper.make_node("Tanh", ["made"], ["y"]),
        helper.make_node("Mul", ["state", "half"], ["new_state"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([0], np.int64), "axis"),
        numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH)).astype(np.float32), "w"),
        numpy_helper.from_array(np.float32(0.5), "half"),
    ]
    return _model(nodes, STATE, constants)


def whole_array() -> bytes:
    """``low`` and ``high``: the lowest and the two highest of five numbers, which are no samples but one."""
    nodes = [
        helper.make_node("TopK", ["x", "one"], ["low", "lowest"], largest=0),
        helper.make_node("TopK", ["x", "two"], ["high", "highest"]),
    ]
    constants = [numpy_helper.from_array(np.array([n], np.int64), name) for n, name in ((1, "one"), (2, "two"))]
    return _model(nodes, WHOLE, constants)


def _model(nodes: list[object], signature: Signature, constants: list[object]) -> bytes:
    ends = [
        [
            helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)
            for spec in specs
        ]
        for specs in (signature.inputs, signature.outputs)
    ]
    graph = helper.make_graph(nodes, "g", *ends, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    data: bytes = made.SerializeToString(deterministic=True)
    return data
