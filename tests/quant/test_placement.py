"""Where the quantisers go: small graphs, by hand, under each backend's rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import OPSET, Net, decibels, formula, kernels, quantise, residual, run, shortcut
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from compressor import catalog
from compressor.core import QdqRules, Target
from compressor.lowering.placement import Placement
from compressor.machine import machine


def _target(*quirks: str) -> Target:
    return Target("t", "t", "onnxruntime", "here", "any", ("fp32", "int8"), OPSET, quirks=quirks)


RULES: dict[str, QdqRules] = {
    "ort": catalog.find("backends", "onnxruntime")().rules(_target()),
    "ort-7bit": catalog.find("backends", "onnxruntime")().rules(_target("u8s8-saturates")),
    "null": catalog.find("backends", "null")().rules(_target()),
}
ORT = RULES["ort-7bit"]  # on any CPU
VNNI = {"avx512_vnni", "avx_vnni", "asimddp"} & set(machine().features)
"""Where it is absent, eight-bit weights saturate: ONNX Runtime's kernels are then another function."""

every_table = pytest.mark.parametrize("table", list(RULES))


def ways(table: str) -> tuple[bool, ...]:
    """Exact evaluation, and the kernels where they can be trusted; the null table is made for none.

    (ONNX Runtime 1.32 cannot even load it where a Slice follows: its QDQPropagation gives an int8
    QuantizeLinear of opset 21 the wrong zero point.)
    """
    return (True, False) if table == "ort-7bit" or (table == "ort" and VNNI) else (True,)


# -- the graphs -------------------------------------------------------------------------------


def chain() -> Net:
    n = Net()
    n.op("Relu", n.conv("input", "a"), out="b")
    n.conv("b", "y", cout=5)
    return n


def pooled() -> Net:
    n = Net()
    n.op("Relu", n.conv("input", "a"), out="b")
    n.conv(n.op("MaxPool", "b", out="p", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), "y")
    return n


def concatenated() -> Net:
    n = Net()
    a, b = n.conv("input", "a"), n.conv("input", "b", cout=3)
    n.conv(n.op("Concat", a, b, out="c", axis=1), "y", cin=7)
    return n


def shuffled() -> Net:
    """ShuffleNet's unit: split, convolve one half, join, shuffle the channels."""
    n = Net()
    n.op("Split", n.conv("input", "a"), out="l r", axis=1, num_outputs=2)
    n.op("Concat", "l", n.op("Relu", n.conv("r", "c", cin=2, cout=2), out="d"), out="j", axis=1)
    n.op("Reshape", "j", n.ints("s1", 0, 2, 2, 8, 8), out="k")
    n.op("Transpose", "k", out="t", perm=[0, 2, 1, 3, 4])
    n.op("Reshape", "t", n.ints("s2", 0, 4, 8, 8), out="u")
    n.conv("u", "y")
    return n


def clipped() -> Net:
    n = Net()
    zero, six = n.const("zero", np.float32(0)), n.const("six", np.float32(6))
    n.conv(n.op("Clip", n.conv("input", "a"), zero, six, out="b"), "y")
    return n


def dense(trans: int) -> Callable[[], Net]:
    def build() -> Net:
        n = Net((12,))
        n.gemm(n.op("Relu", n.gemm("input", "a", 12, 9, trans), out="b"), "y", 9, 5, trans)
        return n

    return build


def matmul() -> Net:
    n = Net((12,))
    w = n.const("w", n.rng.standard_normal((12, 5)).astype(np.float32))
    n.op("MatMul", "input", w, out="a")
    n.op("Add", "a", n.const("b", n.rng.standard_normal(5).astype(np.float32)), out="y")
    return n


def scaled() -> Net:
    n = Net()
    n.op("Mul", n.conv("input", "a"), n.const("k", np.float32(0.37)), out="m")
    n.conv("m", "y")
    return n


def hardswish() -> Net:
    n = Net()
    n.conv(n.op("HardSwish", n.conv("input", "a"), out="h"), "y")
    return n


def gated() -> Net:
    """Squeeze and excite: a Sigmoid gate, multiplied in."""
    n = Net()
    n.conv("input", "a")
    g = n.op("Sigmoid", n.conv(n.op("GlobalAveragePool", "a", out="p"), "c", k=1), out="s")
    n.conv(n.op("Mul", "a", g, out="m"), "y")
    return n


def padded(value: float) -> Callable[[], Net]:
    def build() -> Net:
        n = Net()
        n.op("Relu", n.conv("input", "a"), out="b")
        fill = n.const("fill", np.float32(value))
        n.conv(n.op("Pad", "b", n.ints("pads", 0, 0, 1, 1, 0, 0, 1, 1), fill, out="p"), "y")
        return n

    return build


def reflected() -> Net:
    n = Net()
    n.op("Relu", n.conv("input", "a"), out="b")
    n.conv(n.op("Pad", "b", n.ints("pads", 0, 0, 1, 1, 0, 0, 1, 1), out="p", mode="reflect"), "y")
    return n


def input_twice() -> Net:
    n = Net()
    n.op("Add", n.conv("input", "a"), "input", out="f")
    n.conv("f", "y")
    return n


def depthwise() -> Net:
    n = Net()
    n.conv(n.op("Relu", n.conv("input", "a", group=4), out="b"), "y", k=1, bias=False)
    return n


def upsampled() -> Net:
    n = Net()
    w = n.const("w", n.rng.standard_normal((4, 3, 2, 2)).astype(np.float32))
    n.op("ConvTranspose", n.op("Relu", n.conv("input", "a"), out="b"), w, out="y", strides=[2, 2])
    return n


def shared_weights() -> Net:
    n = Net()
    n.op("Relu", n.conv("input", "a"), out="b")
    n.op("Conv", "b", "a_w", "a_b", out="y", pads=[1, 1, 1, 1])
    return n


def output_read_inside() -> Net:
    n = Net()
    n.op("Relu", n.conv("input", "a"), out="b")
    n.conv("b", "y")
    return n


def leaky() -> Net:
    n = Net()
    n.conv(n.op("LeakyRelu", n.conv("input", "a"), out="l", alpha=0.1), "y")
    return n


def branched_relu() -> Net:
    """A convolution read raw, and through its Relu."""
    n = Net()
    n.op("Relu", n.conv("input", "a"), out="b")
    n.conv(n.op("Add", "a", "b", out="f"), "y")
    return n


GRAPHS: dict[str, tuple[Callable[[], Net], tuple[str, ...]]] = {
    "chain": (chain, ("y",)),
    "residual": (residual, ("y",)),
    "shortcut": (shortcut, ("y",)),
    "pooled": (pooled, ("y",)),
    "concatenated": (concatenated, ("y",)),
    "shuffled": (shuffled, ("y",)),
    "clipped": (clipped, ("y",)),
    "dense": (dense(1), ("y",)),
    "dense-untransposed": (dense(0), ("y",)),
    "matmul": (matmul, ("y",)),
    "scaled": (scaled, ("y",)),
    "hardswish": (hardswish, ("y",)),
    "gated": (gated, ("y",)),
    "padded": (padded(0.0), ("y",)),
    "padded-with-3": (padded(3.0), ("y",)),
    "reflected": (reflected, ("y",)),
    "input-twice": (input_twice, ("y",)),
    "depthwise": (depthwise, ("y",)),
    "upsampled": (upsampled, ("y",)),
    "shared-weights": (shared_weights, ("y",)),
    "output-read-inside": (output_read_inside, ("y", "b")),
    "leaky": (leaky, ("y",)),
    "branched-relu": (branched_relu, ("y",)),
}


# -- what holds for every graph under every table ---------------------------------------------


@every_table
@pytest.mark.parametrize("name", list(GRAPHS))
def test_every_graph(name: str, table: str) -> None:
    build, outputs = GRAPHS[name]
    net, rules = build(), RULES[table]
    model, batch = net.model(*outputs), net.batch()
    q = quantise(model, rules, batch)

    # The contract of a model stands: names, count and type of inputs and outputs.
    assert [i.name for i in q.proto.graph.input] == ["input"]
    assert [o.name for o in q.proto.graph.output] == list(outputs)
    assert all(o.type.tensor_type.elem_type == TensorProto.FLOAT for o in q.proto.graph.output)
    names = [o for n in q.proto.graph.node for o in n.output] + list(q.constants)
    assert len(names) == len(set(names))

    # Every activation's grid is the formula's, over the union of the tensors that share it.
    originals = {o for n in model.graph.node for o in n.output} | {"input"}
    for node in q.proto.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        scale, zero = q.grid(node)
        assert scale.dtype == np.float32
        assert scale.shape == ()
        assert zero.dtype == np.dtype(rules.activation_dtype)
        spans = [formula(rules, *q.ranges[t]) for t in originals & q.ranges.keys()]
        assert any(np.isclose(scale, s, rtol=1e-6) and zero == z for s, z in spans) or name in ("shuffled", "shortcut")

    # Weights are symmetric, within their bits, and no further from the float ones than half a step.
    limit = 2 ** (rules.weight_bits - 1) - 1
    floats = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for before, after in zip(
        [n for n in model.graph.node if n.op_type in rules.quantizable_ops & {"Conv", "Gemm", "MatMul"}],
        [n for n in q.proto.graph.node if n.op_type in rules.quantizable_ops & {"Conv", "Gemm", "MatMul"}],
        strict=True,
    ):
        integers, scale, axis = q.weight(after)
        wanted = floats[before.input[1]]
        assert integers.dtype == np.int8
        assert abs(integers.astype(int)).max() == limit
        column = scale.reshape([-1 if i == axis else 1 for i in range(wanted.ndim)]) if scale.ndim else scale
        assert np.all(np.abs(integers * column - wanted) <= column * 0.501)
        if before.op_type in rules.per_channel:
            trans = next((a.i for a in before.attribute if a.name == "transB"), before.op_type != "MatMul")
            assert axis == (0 if trans else 1)
            others = tuple(i for i in range(wanted.ndim) if i != axis)
            np.testing.assert_allclose(scale, np.abs(wanted).max(axis=others) / limit, rtol=1e-6)
        else:
            np.testing.assert_allclose(scale, np.abs(wanted).max() / limit, rtol=1e-6)

    # It runs, and it is the same function, nearly; kernels and exact evaluation agree, nearly.
    expected, exact = run(model, batch), run(q.proto, batch, exact=True)
    for way in ways(table):
        for e, f in zip(expected, run(q.proto, batch, way), strict=True):
            assert decibels(e, f) > 28
    judge = ReferenceEvaluator(q.proto).run(None, {"input": batch})
    for e, x, j in zip(expected, exact, judge, strict=True):
        assert e.shape == x.shape == j.shape
        # Summing in another order may move a value over a rounding edge: one step, now and then.
        assert np.quantile(np.abs(x - j), 0.98) < 1e-4 * max(1.0, float(np.abs(j).max()))
        assert decibels(j, x) > 40


@every_table
def test_the_same_graph_gives_the_same_bytes(table: str) -> None:
    """Of a net large enough for a set's order to differ from one run to the next."""
    n, x = Net(), "input"
    for i in range(24):
        x = n.op("Relu", n.conv(x, f"c{i}"), out=f"r{i}")
    model = n.model(x)
    alive, seen = [], set()
    for _ in range(4):
        graph = ir.from_proto(model)
        placement = Placement(graph, RULES[table])
        placement.apply({name: (-1.0, 1.0 + i) for i, name in enumerate(placement.tensors)})
        alive.append(graph)  # so that the next one lies at other addresses
        seen.add(ir.to_proto(graph).SerializeToString(deterministic=True))
    assert len(seen) == 1


@pytest.mark.parametrize("name", list(GRAPHS))
def test_any_batch_size_goes_through(name: str) -> None:
    build, outputs = GRAPHS[name]
    model, batch = build().model(*outputs), build().batch(7)
    q = quantise(model, ORT, batch)
    whole = run(q.proto, batch, exact=True)[0]
    for size in (1, 2, 7):
        np.testing.assert_allclose(run(q.proto, batch[:size], exact=True)[0], whole[:size], atol=1e-4)


# -- where they are, table by table ----------------------------------------------------------

PLACES: dict[str, tuple[set[str], set[str]]] = {
    # graph: (tensors that are integers for ONNX Runtime, for the null table)
    "chain": ({"input", "b"}, {"input", "b"}),
    "residual": ({"input", "b", "d", "e", "g", "p", "q"}, {"input", "b", "d", "q"}),
    "shortcut": ({"input", "b", "s", "p", "c", "g"}, {"input", "b", "g"}),
    "pooled": ({"input", "b", "p"}, {"input", "p"}),
    "concatenated": ({"input", "a", "b", "c"}, {"input", "c"}),
    "shuffled": ({"input", "a", "l", "r", "d", "j", "k", "t", "u"}, {"input", "r", "u"}),
    "clipped": ({"input", "b"}, {"input", "b"}),
    "dense": ({"input", "b"}, {"input", "b"}),
    "matmul": ({"input", "a"}, {"input"}),
    "scaled": ({"input", "a", "m"}, {"input", "m"}),
    "hardswish": ({"input", "a", "h"}, {"input", "h"}),
    "gated": ({"input", "a", "p", "c", "s", "m"}, {"input", "p", "m"}),
    "padded": ({"input", "b", "p"}, {"input", "p"}),
    "padded-with-3": ({"input", "b", "p"}, {"input", "p"}),
    "reflected": ({"input", "b", "p"}, {"input", "p"}),
    "input-twice": ({"input", "a", "f"}, {"input", "f"}),
    "upsampled": ({"input", "b"}, {"input"}),
    "output-read-inside": ({"input", "b"}, {"input", "b"}),
    "branched-relu": ({"input", "a", "b", "f"}, {"input", "f"}),
}


@pytest.mark.parametrize("name", list(PLACES))
def test_which_tensors_are_integers(name: str) -> None:
    build, outputs = GRAPHS[name]
    net = build()
    for table, wanted in zip(("ort", "null"), PLACES[name], strict=True):
        q = quantise(net.model(*outputs), RULES[table], net.batch())
        assert q.quantised() == wanted, table
        for op in ("Conv", "Gemm", "MatMul"):
            for node in q.proto.graph.node:
                if node.op_type == op:  # an integer op reads integers, both of them
                    assert q.maker(node.input[0]).op_type == "DequantizeLinear"
                    assert q.maker(node.input[1]).op_type == "DequantizeLinear"


def test_a_relu_between_integers_is_dropped_only_where_clamping_does_its_work() -> None:
    net = chain()
    assert "Relu" not in quantise(net.model("y"), ORT, net.batch()).ops
    assert quantise(net.model("y"), RULES["null"], net.batch()).ops["Relu"] == 1
    int8 = dataclasses.replace(ORT, activation_dtype="int8", symmetric_activations=True)
    assert quantise(net.model("y"), int8, net.batch()).ops["Relu"] == 1  # the grid goes below zero


def test_a_clip_is_kept_where_the_grid_is_wider() -> None:
    net = clipped()
    assert "Clip" not in quantise(net.model("y"), ORT, net.batch()).ops
    assert "Clip" not in quantise(net.model("y"), ORT, net.batch(), {"b": (0.0, 6.0)}).ops
    assert quantise(net.model("y"), ORT, net.batch(), {"b": (0.0, 7.0)}).ops["Clip"] == 1
    assert quantise(net.model("y"), ORT, net.batch(), {"b": (-0.5, 6.0)}).ops["Clip"] == 1


def test_a_clip_without_bounds_or_with_a_floor_above_zero() -> None:
    for low, dropped in ((None, True), (0.5, False), (-1e9, True)):
        n = Net()
        bounds = [""] if low is None else [n.const("low", np.float32(low))]
        n.conv(n.op("Clip", n.conv("input", "a"), *bounds, n.const("high", np.float32(2)), out="b"), "y")
        q = quantise(n.model("y"), ORT, n.batch())
        assert ("Clip" not in q.ops) is dropped, low
        assert decibels(run(n.model("y"), n.batch())[0], run(q.proto, n.batch())[0]) > 28


def test_tensors_that_are_only_moved_share_one_grid_over_all_their_ranges() -> None:
    net = shortcut()
    q = quantise(net.model("y"), ORT, net.batch(), {"b": (0.0, 1.0), "s": (0.0, 2.0), "p": (-1.0, 1.5)})
    moved = q.node("Pad")
    assert moved.input[0] == "s_quantized"
    assert q.maker("s_quantized").input[0] == "b_quantized"
    scale, zero = q.grid(q.maker("b_quantized"))
    assert (scale, zero) == (np.float32(3 / 255), 85)
    assert q.constants[moved.input[2]] == 85  # zero, as an integer
    assert q.constants[moved.input[2]].dtype == np.uint8


def test_moving_ops_work_on_integers() -> None:
    net = shuffled()
    q = quantise(net.model("y"), ORT, net.batch())
    for op in ("Split", "Reshape", "Transpose"):
        for node in q.proto.graph.node:
            if node.op_type == op:
                assert node.input[0].endswith("_quantized")
                assert all(o.endswith("_quantized") for o in node.output)
    assert q.ops["QuantizeLinear"] == 4  # input, a, d, j: once each, at the source


def test_padding_with_another_value_is_no_move() -> None:
    net = padded(3.0)()
    q = quantise(net.model("y"), ORT, net.batch())
    pad = q.node("Pad")
    assert pad.input[0] == "b_dequantized"
    assert pad.input[2] == "fill"
    assert q.maker("p_quantized").op_type == "QuantizeLinear"


def test_what_is_left_in_float_reads_what_is_made_in_float_as_it_is() -> None:
    """A long chain of sums would else be rounded at every link."""
    net = Net()
    net.conv("input", "a")
    net.op("Add", net.conv("a", "b"), "a", out="c")
    net.op("Add", net.conv("c", "d"), "c", out="e")
    net.conv("e", "y")
    model = net.model("y")
    sums = [node.name for node in model.graph.node if node.op_type == "Add"]
    first = model.graph.node[0].name
    q = quantise(model, ORT, net.batch(), floats=frozenset({first, *sums}))
    added = [list(node.input) for node in q.proto.graph.node if node.op_type == "Add"]
    assert added == [["b_dequantized", "a"], ["d_dequantized", "c"]]
    read = [node.input[0] for node in q.proto.graph.node if node.op_type == "Conv"]
    assert read == ["input", "a_dequantized", "c_dequantized", "e_dequantized"]
    rounded = quantise(model, ORT, net.batch(), floats=frozenset({first}))
    exact = run(model, net.batch())[0]
    assert decibels(exact, run(q.proto, net.batch(), exact=True)[0]) > decibels(
        exact, run(rounded.proto, net.batch(), exact=True)[0]
    )


def test_an_output_that_is_read_inside_keeps_its_name_and_is_a_float() -> None:
    net = output_read_inside()
    q = quantise(net.model("y", "b"), ORT, net.batch())
    assert q.maker("b").op_type == "DequantizeLinear"
    assert [n.op_type for n in q.readers("b")] == ["Conv"]


@every_table
@pytest.mark.parametrize("kind", ["Flatten", "MaxPool", "Split"])
def test_an_output_made_by_a_moving_op_stays_float(kind: str, table: str) -> None:
    n = Net()
    n.conv("input", "a")
    more = {"Flatten": {}, "MaxPool": {"kernel_shape": [2, 2]}, "Split": {"num_outputs": 2, "axis": 1}}[kind]
    outputs = ("y", "z") if kind == "Split" else ("y",)
    n.op(kind, "a", out=" ".join(outputs), **more)
    q = quantise(n.model(*outputs), RULES[table], n.batch())
    assert q.quantised() == {"input"}
    assert q.maker("y").op_type == kind
    assert q.maker("y").input[0] == "a"
    assert len(run(q.proto, n.batch())) == len(outputs)


@every_table
def test_an_output_of_a_moving_op_that_is_read_inside(table: str) -> None:
    n = Net()
    n.op("MaxPool", n.op("Relu", n.conv("input", "a"), out="b"), out="p", kernel_shape=[2, 2], strides=[2, 2])
    n.conv("p", "y")
    model = n.model("y", "p", "b")
    q = quantise(model, RULES[table], n.batch())
    assert [o.name for o in q.proto.graph.output] == ["y", "p", "b"]
    for e, f in zip(run(model, n.batch()), run(q.proto, n.batch(), exact=True), strict=True):
        assert decibels(e, f) > 28


# -- weights and biases -----------------------------------------------------------------------


def test_a_shared_weight_is_stored_once() -> None:
    net = shared_weights()
    q = quantise(net.model("y"), ORT, net.batch())
    assert len({n.input[1] for n in q.proto.graph.node if n.op_type == "Conv"}) == 1
    assert sum(v.dtype == np.int8 and v.ndim == 4 for v in q.constants.values()) == 1
    assert "a_w" not in q.constants


@pytest.mark.parametrize("other", ["Gemm-untransposed", "MatMul"])
def test_a_weight_shared_along_different_axes(other: str) -> None:
    n = Net((6,))
    w = n.const("w", (n.rng.standard_normal((6, 6)) * np.arange(1, 7)).astype(np.float32))
    n.op("Gemm", "input", w, out="a", transB=1)
    kind = other.split("-")[0]
    n.op(kind, "a", w, out="y")
    q = quantise(n.model("y"), ORT, n.batch())
    assert decibels(run(n.model("y"), n.batch())[0], run(q.proto, n.batch(), exact=True)[0]) > 30
    first, second = q.weight(q.node("Gemm")), q.weight([m for m in q.proto.graph.node if m.op_type == kind][-1])
    weight = numpy_helper.to_array(n.constants[0])
    np.testing.assert_allclose(first[1], np.abs(weight).max(1) / 63, rtol=1e-6)
    np.testing.assert_allclose(second[1], np.abs(weight).max(0) / 63, rtol=1e-6)


def test_a_bias_shared_by_two_gemms_has_a_scale_for_each() -> None:
    n = Net((6,))
    bias = n.const("bias", np.linspace(-2, 2, 6).astype(np.float32))
    w1, w2 = (n.const(f"w{i}", n.rng.standard_normal((6, 6)).astype(np.float32)) for i in (1, 2))
    n.op("Gemm", n.op("Relu", n.op("Gemm", "input", w1, bias, out="a"), out="b"), w2, bias, out="y")
    model = n.model("y")
    q = quantise(model, ORT, n.batch())
    assert decibels(run(model, n.batch())[0], run(q.proto, n.batch())[0]) > 30


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5)])
def test_an_integer_bias_of_any_shape(shape: tuple[int, ...]) -> None:
    n = Net((12,))
    w = n.const("w", n.rng.standard_normal((5, 12)).astype(np.float32))
    b = n.const("b", n.rng.standard_normal(shape).astype(np.float32))
    n.op("Gemm", "input", w, b, out="y", transB=1)
    model = n.model("y")
    q = quantise(model, ORT, n.batch())
    for exact in (True, False):
        assert decibels(run(model, n.batch())[0], run(q.proto, n.batch(), exact)[0]) > 30


def test_an_integer_bias_is_at_the_scale_of_the_products() -> None:
    net = dense(1)()
    q = quantise(net.model("y"), ORT, net.batch())
    for node in (n for n in q.proto.graph.node if n.op_type == "Gemm"):
        bias = q.maker(node.input[2])
        integers, (scale, zero) = q.constants[bias.input[0]], q.grid(bias)
        step = q.grid(q.maker(node.input[0]))[0]
        assert integers.dtype == zero.dtype == np.int32
        np.testing.assert_allclose(scale, step * q.weight(node)[1], rtol=1e-6)
        name = bias.input[0].removesuffix("_int32")
        wanted = next(numpy_helper.to_array(c) for c in net.constants if c.name == name)
        np.testing.assert_array_equal(integers, np.rint(wanted.astype(np.float64) / scale.astype(np.float64)))


def test_a_convolution_keeps_its_float_bias_everywhere() -> None:
    net = chain()
    for rules in RULES.values():
        q = quantise(net.model("y"), rules, net.batch())
        assert [n.input[2] for n in q.proto.graph.node if n.op_type == "Conv"] == ["a_b", "y_b"]


@pytest.mark.parametrize("more", [{"alpha": 0.5}, {"beta": 0.25}, {"alpha": 2.0, "beta": 3.0}])
def test_a_gemm_with_alpha_or_beta(more: dict[str, float]) -> None:
    n = Net((12,))
    n.gemm("input", "y", 12, 5, **more)
    model = n.model("y")
    q = quantise(model, ORT, n.batch())
    for exact in (True, False):
        assert decibels(run(model, n.batch())[0], run(q.proto, n.batch(), exact)[0]) > 30


def _dead_channel(kind: str, magnitude: float) -> Net:
    """A channel that training killed: next to no weights, and a bias that counts."""
    n = Net() if kind == "Conv" else Net((12,))
    weight = n.rng.standard_normal((4, 4, 3, 3) if kind == "Conv" else (4, 12)).astype(np.float32)
    weight[1] *= np.float32(magnitude)
    weight[1].flat[0] = 0
    bias = n.const("b", np.array([0.3, 0.7, -1.1, 0.2], np.float32))
    more: dict[str, Any] = {"pads": [1, 1, 1, 1]} if kind == "Conv" else {"transB": 1}
    n.op(kind, "input", n.const("w", weight), bias, out="a", **more)
    if kind == "Conv":
        n.conv("a", "y")
    else:
        n.gemm("a", "y", 4, 3)
    return n


@every_table
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("magnitude", [0.0, 1e-10, 1e-20, 1e-38, 1e-44])
@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_a_dead_channel_keeps_its_bias(kind: str, magnitude: float, table: str) -> None:
    net = _dead_channel(kind, magnitude)
    model, batch = net.model("y"), net.batch()
    q = quantise(model, RULES[table], batch)
    for exact in ways(table):
        assert decibels(run(model, batch)[0], run(q.proto, batch, exact)[0]) > 28


@every_table
@pytest.mark.filterwarnings("error")
def test_tensors_that_are_zero_throughout(table: str) -> None:
    n = Net()
    zeros = n.const("w", np.zeros((4, 4, 3, 3), np.float32))
    n.conv(n.op("Relu", n.op("Conv", "input", zeros, out="a", pads=[1, 1, 1, 1]), out="b"), "y")
    model = n.model("y")
    q = quantise(model, RULES[table], n.batch())
    for node in q.proto.graph.node:
        if node.op_type == "QuantizeLinear":
            assert q.grid(node)[0] > 0
    for exact in (True, False):
        np.testing.assert_allclose(run(q.proto, n.batch(), exact)[0], run(model, n.batch())[0], atol=1e-5)


def test_ranges_on_one_side_of_zero_are_widened_to_it() -> None:
    net = chain()
    q = quantise(net.model("y"), ORT, net.batch(), {"input": (1.0, 5.0), "b": (-4.0, -2.0)})
    assert q.grid(q.maker("input_quantized")) == (np.float32(5 / 255), 0)
    assert q.grid(q.maker("b_quantized")) == (np.float32(4 / 255), 255)


# -- tensors that are no activations ----------------------------------------------------------


@every_table
def test_shape_arithmetic_is_left_alone(table: str) -> None:
    """Concat, Slice and Mul also work on shapes: those are int64, and none of a quantiser's business."""
    n = Net()
    n.conv("input", "a")
    n.op("Shape", "a", out="sh")
    n.op("Slice", "sh", n.ints("i0", 0), n.ints("i1", 1), out="head")
    n.op("Slice", "sh", n.ints("i2", 2), n.ints("i4", 4), out="tail")
    n.op("Mul", n.op("Slice", "sh", n.ints("one", 1), n.ints("two", 2), out="c"), "head", out="never")
    n.op("Div", "never", "head", out="channels")
    n.op("Concat", "head", "channels", "tail", out="target", axis=0)
    n.conv(n.op("Reshape", "a", "target", out="r"), "y")
    model = n.model("y")
    q = quantise(model, RULES[table], n.batch())
    assert not q.quantised() & {"sh", "head", "tail", "c", "never", "channels", "target"}
    assert decibels(run(model, n.batch())[0], run(q.proto, n.batch(), exact=True)[0]) > 28


def test_a_maxpool_that_also_gives_indices() -> None:
    n = Net()
    n.op("MaxPool", n.conv("input", "a"), out="p where", kernel_shape=[2, 2], strides=[2, 2])
    n.op("Cast", "where", out="z", to=TensorProto.FLOAT)
    n.conv("p", "y")
    model = n.model("y", "z")
    q = quantise(model, ORT, n.batch())
    assert "where" not in q.quantised()
    assert decibels(run(model, n.batch())[0], run(q.proto, n.batch())[0]) > 28


def test_a_multiplication_of_constants_in_a_constant_node() -> None:
    n = Net()
    n.op("Constant", out="k", value=numpy_helper.from_array(np.float32(0.37), "k"))
    n.conv(n.op("Mul", n.conv("input", "a"), "k", out="m"), "y")
    model = n.model("y")
    q = quantise(model, ORT, n.batch())
    assert "k" not in q.quantised()
    assert decibels(run(model, n.batch())[0], run(q.proto, n.batch())[0]) > 28


# -- what ONNX Runtime makes of it ------------------------------------------------------------

FUSED: dict[str, dict[str, int]] = {
    "chain": {"QLinearConv": 1, "QuantizeLinear": 1},
    "residual": {"QLinearConv": 3, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1, "QuantizeLinear": 1},
    "shortcut": {"QLinearConv": 2, "QLinearAdd": 1, "Slice": 1, "Pad": 1},
    "pooled": {"QLinearConv": 1, "NhwcMaxPool": 1, "MaxPool": 0},
    "concatenated": {"QLinearConv": 2, "QLinearConcat": 1},
    "shuffled": {"QLinearConv": 2, "QLinearConcat": 1, "Split": 1},
    "clipped": {"QLinearConv": 1},
    "dense": {"QGemm": 2},
    "dense-untransposed": {"QGemm": 2},
    "input-twice": {"QLinearConv": 1, "QLinearAdd": 1},
    "leaky": {"QLinearConv": 1, "QLinearLeakyRelu": 1},
    "gated": {"QLinearConv": 2, "QLinearMul": 1, "QLinearSigmoid": 1},
}


@pytest.mark.parametrize("table", ["ort", "ort-7bit"])
@pytest.mark.parametrize("name", list(FUSED))
def test_onnx_runtime_takes_its_integer_kernels(name: str, table: str, tmp_path: Path) -> None:
    build, outputs = GRAPHS[name]
    net = build()
    ran = kernels(quantise(net.model(*outputs), RULES[table], net.batch()).proto, tmp_path)
    for op, count in FUSED[name].items():
        assert ran[op] == count, (op, ran)


def test_a_whole_network_leaves_no_dequantisation_behind(tmp_path: Path) -> None:
    net = residual()
    ran = kernels(quantise(net.model("y"), ORT, net.batch()).proto, tmp_path)
    assert ran["DequantizeLinear"] == 0, ran
    assert not ran.keys() & {"Conv", "Relu", "Add", "Gemm", "GlobalAveragePool", "FusedConv"}, ran


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])
def test_seven_bits_never_saturate(kind: str, sign: int) -> None:
    """Every weight and every activation at its largest: the sums of pairs are the worst there are."""
    n = Net((32, 4, 4) if kind == "Conv" else (256,))
    shape = {"Conv": (8, 32, 3, 3), "Gemm": (8, 256), "MatMul": (256, 8)}[kind]
    weight = n.const("w", np.full(shape, sign * 0.5, np.float32))
    more: dict[str, Any] = {"Conv": {"pads": [1, 1, 1, 1]}, "Gemm": {"transB": 1}}.get(kind, {})
    n.op("Relu", n.op(kind, "input", weight, out="a", **more), out="b")
    second = {"Conv": (4, 8, 1, 1), "Gemm": (4, 8), "MatMul": (8, 4)}[kind]
    transposed = {"transB": 1} if kind == "Gemm" else {}
    n.op(kind, "b", n.const("v", np.full(second, 0.1, np.float32)), out="y", **transposed)
    batch = np.ones((3, *n.shape), np.float32)
    q = quantise(n.model("y"), RULES["ort-7bit"], batch, {"input": (0.0, 1.0), "b": (0.0, 200.0)})
    integers = q.weight(q.node(kind))[0].astype(int)
    assert 2 * 255 * abs(integers).max() <= 32767
    exact, fast = run(q.proto, batch, exact=True)[0], run(q.proto, batch)[0]
    np.testing.assert_allclose(fast, exact, atol=0.81 * 0.8 * 1.01, rtol=0)  # a step of b, through v
    assert np.all(exact >= 0)


def embedding() -> Net:
    """Rows of a table, which two nodes read, under a layer."""
    n = Net((5,))
    table = n.const(
        "table", n.rng.standard_normal((2000, 40)).astype(np.float32) * np.linspace(0.01, 10, 40, dtype="f")
    )
    index = n.op("Cast", n.op("Abs", "input", out="abs"), out="index", to=TensorProto.INT64)
    n.op("Add", n.op("Gather", table, index, out="a"), n.op("Gather", table, index, out="b"), out="rows")
    n.op("MatMul", "rows", n.const("w", n.rng.standard_normal((40, 6)).astype(np.float32)), out="y")
    return n


def test_embedding_tables_are_integers_once() -> None:
    n, rules = embedding(), RULES["ort"]
    model = n.model("y")
    made = quantise(model, rules, n.batch() * 300)
    (name,) = [name for name, values in made.constants.items() if values.shape == (2000, 40)]
    assert made.constants[name].dtype == np.int8
    scales = made.constants["table_column_scale"]
    wanted = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "table")
    assert np.all(np.abs(made.constants[name] * scales - wanted) <= scales / 2 + 1e-6)
    assert np.allclose(scales, np.abs(wanted).max(0) / 127)
    assert len([node for node in made.proto.graph.node if node.op_type == "Gather"]) == 2
    batch = n.batch() * 300
    assert decibels(run(model, batch)[0], run(made.proto, batch)[0]) > 30
    left = quantise(model, rules, batch, floats=frozenset({"n2", "n3"}))
    assert left.constants["table"].dtype == np.float32


def test_products_with_a_matrix_have_scales_by_column(tmp_path: Path) -> None:
    n = matmul()
    made = quantise(n.model("y"), ORT, n.batch())
    integers, scale, axis = made.weight(made.node("MatMul"))
    assert (integers.shape, scale.shape, axis % 2) == ((12, 5), (5,), 1)
    assert "MatMul" not in kernels(made.proto, tmp_path)


@pytest.mark.parametrize("kind", ["Conv", "grouped", "ConvTranspose", "Gemm"])
def test_a_layer_in_float_between_integers_is_computed_in_float(kind: str) -> None:
    """ONNX Runtime rounds the weights of a layer behind a DequantizeLinear of one scale, to one scale, unasked."""
    n = Net((8,)) if kind == "Gemm" else Net()
    first, last = (n.gemm("input", "a", 8, 8), (8, 5)) if kind == "Gemm" else (n.conv("input", "a", cout=8), (8, 5))
    sizes = {"Conv": (8, 8, 3, 3), "grouped": (8, 1, 3, 3), "ConvTranspose": (8, 8, 3, 3), "Gemm": (8, 8)}[kind]
    weight = n.rng.standard_normal(sizes) * np.logspace(-3, 0, 8).reshape(-1, *[1] * (len(sizes) - 1))
    held = [n.const("w", weight.astype(np.float32)), n.const("c", n.rng.standard_normal(8).astype(np.float32))]
    for out in ("b", "b2"):  # two layers that read the same integers
        if kind == "Gemm":
            n.op("Gemm", first, *held, out=out, transB=1)
        else:
            op = kind if kind == "ConvTranspose" else "Conv"
            n.op(op, first, *held, out=out, pads=[1] * 4, group=8 if kind == "grouped" else 1)
    n.op("Add", "b", "b2", out="s")
    n.gemm("s", "y", *last) if kind == "Gemm" else n.conv("s", "y", *last)
    model, batch = n.model("y"), n.batch()
    made = quantise(model, ORT, batch, floats=frozenset({"n1", "n2"}))
    assert made.constants["w"].dtype == np.float32
    assert decibels(run(made.proto, batch, exact=True)[0], run(made.proto, batch)[0]) > 45
