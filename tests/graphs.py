"""Small ONNX graphs written by hand, quantised by the compiler's placement, and questions about the outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from compressor.core import QdqRules
from compressor.lowering.placement import Placement

OPSET = 21


# -- graphs by hand ---------------------------------------------------------------------------


@dataclass
class Net:
    """A graph being written; ``x`` is always the tensor last made."""

    shape: tuple[int, ...] = (4, 8, 8)
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def const(self, name: str, value: Any) -> str:
        if name not in {c.name for c in self.constants}:
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, name: str, *values: int) -> str:
        return self.const(name, np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, out: str, **attributes: Any) -> str:
        outs = out.split()
        self.nodes.append(helper.make_node(kind, list(inputs), outs, f"n{len(self.nodes)}", **attributes))
        return outs[0]

    def conv(self, x: str, out: str, cin: int = 4, cout: int = 4, k: int = 3, bias: bool = True, **more: Any) -> str:
        groups = more.get("group", 1)
        weight = (self.rng.standard_normal((cout, cin // groups, k, k)) * 0.3).astype(np.float32)
        inputs = [x, self.const(f"{out}_w", weight)]
        if bias:
            inputs.append(self.const(f"{out}_b", self.rng.standard_normal(cout).astype(np.float32)))
        return self.op("Conv", *inputs, out=out, pads=[k // 2] * 4, **more)

    def gemm(self, x: str, out: str, cin: int, cout: int, trans: int = 1, **more: Any) -> str:
        weight = self.rng.standard_normal((cout, cin) if trans else (cin, cout)).astype(np.float32)
        bias = self.rng.standard_normal(cout).astype(np.float32)
        return self.op(
            "Gemm", x, self.const(f"{out}_w", weight), self.const(f"{out}_b", bias), out=out, transB=trans, **more
        )

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *self.shape])],
            [helper.make_empty_tensor_value_info(o) for o in outputs],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
        del made.graph.value_info[:]  # as `export.save` leaves it
        onnx.checker.check_model(made, full_check=True)
        return made

    def batch(self, n: int = 6) -> np.ndarray:
        return np.random.default_rng(1).standard_normal((n, *self.shape)).astype(np.float32)


# -- quantising them, and reading the outcome -------------------------------------------------


@dataclass
class Quantised:
    """The outcome, with questions that tests ask."""

    proto: onnx.ModelProto
    ranges: dict[str, tuple[float, float]]
    rules: QdqRules

    @property
    def ops(self) -> Counter[str]:
        return Counter(n.op_type for n in self.proto.graph.node)

    @property
    def constants(self) -> dict[str, np.ndarray]:
        return {t.name: numpy_helper.to_array(t) for t in self.proto.graph.initializer}

    def maker(self, tensor: str) -> onnx.NodeProto:
        (node,) = [n for n in self.proto.graph.node if tensor in n.output]
        return node

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [n for n in self.proto.graph.node if tensor in n.input]

    def node(self, kind: str, number: int = 0) -> onnx.NodeProto:
        return [n for n in self.proto.graph.node if n.op_type == kind][number]

    def quantised(self) -> set[str]:
        """The float tensors that live as integers."""
        outs = {o for n in self.proto.graph.node for o in n.output if o.endswith("_quantized")}
        return {o.removesuffix("_quantized") for o in outs}

    def grid(self, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
        assert node.op_type in ("QuantizeLinear", "DequantizeLinear")
        return self.constants[node.input[1]], self.constants[node.input[2]]

    def weight(self, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray, int]:
        """A node's integer weight, its scales and their axis."""
        dequantise = self.maker(node.input[1])
        scale, zero = self.grid(dequantise)
        assert not np.any(zero)
        assert zero.shape == scale.shape
        axis = next((a.i for a in dequantise.attribute if a.name == "axis"), 0)
        return self.constants[dequantise.input[0]], scale, axis


def float_values(model: onnx.ModelProto, names: tuple[str, ...], batch: np.ndarray) -> dict[str, np.ndarray]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {o.name for o in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names if n not in have | {"input"})
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    got = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"input": batch}), strict=True))
    return {**got, "input": batch}


def quantise(
    model: onnx.ModelProto,
    rules: QdqRules,
    batch: np.ndarray,
    widen: Mapping[str, tuple[float, float]] | None = None,
    floats: frozenset[str] = frozenset(),
    bits: Mapping[str, int] | None = None,
) -> Quantised:
    graph = ir.from_proto(model)
    placement = Placement(graph, rules, floats)
    values = float_values(model, placement.tensors, batch)
    ranges = {n: (float(values[n].min()), float(values[n].max())) for n in placement.tensors} | dict(widen or {})
    placement.apply(ranges, bits)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    return Quantised(proto, ranges, rules)


def session(model: onnx.ModelProto, exact: bool = False, optimised: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, batch: np.ndarray, exact: bool = False) -> list[np.ndarray]:
    return session(model, exact).run(None, {"input": batch})


def kernels(model: onnx.ModelProto, tmp_path: Path) -> Counter[str]:
    """The ops of the graph that ONNX Runtime really runs."""
    session(model, optimised=tmp_path / "optimised.onnx")
    return Counter(n.op_type for n in onnx.load(str(tmp_path / "optimised.onnx")).graph.node)


def decibels(expected: np.ndarray, got: np.ndarray) -> float:
    noise = float(np.mean((expected.astype(np.float64) - got) ** 2))
    return 200.0 if noise == 0 else 10 * np.log10(float(np.mean(expected.astype(np.float64) ** 2)) / noise)


def formula(rules: QdqRules, low: float, high: float) -> tuple[np.float32, int]:
    """The grid of a range, written out by hand."""
    low, high = min(low, 0.0), max(high, 0.0)
    if rules.symmetric_activations:  # int8 only, in the tables that ship
        return np.float32(max(-low, high) / 127), 0
    scale = np.float32((high - low) / 255)
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def residual() -> Net:
    n = Net()
    n.op("Relu", n.conv("input", "a"), out="b")
    n.conv(n.op("Relu", n.conv("b", "c"), out="d"), "e")
    n.op("Relu", n.op("Add", "e", "b", out="f"), out="g")
    n.gemm(n.op("Flatten", n.op("GlobalAveragePool", "g", out="p"), out="q"), "y", 4, 5)
    return n


def shortcut() -> Net:
    """Option A: every second pixel, and zero channels on both sides."""
    n = Net()
    n.op("Relu", n.conv("input", "a"), out="b")
    s = n.op("Slice", "b", n.ints("st", 0, 0), n.ints("en", 99, 99), n.ints("ax", 2, 3), n.ints("sp", 2, 2), out="s")
    p = n.op("Pad", s, n.ints("pads", 0, 2, 0, 0, 0, 2, 0, 0), out="p")
    n.op("Relu", n.op("Add", n.conv("b", "c", cout=8, strides=[2, 2]), p, out="f"), out="g")
    n.conv("g", "y", cin=8)
    return n
