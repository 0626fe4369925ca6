"""TensorRT without a GPU: placement, FP16 in the graph, older opsets, the build script, RTX engines, their bundles."""

from __future__ import annotations

import importlib.util
import json
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
import torch
from graphs import Net, quantise, residual, shortcut
from onnx import TensorProto, numpy_helper

from compressor import catalog
from compressor.backends import _tensorrt_build_engine as build_engine
from compressor.backends._tensorrt_rules import tensorrt_rules
from compressor.bench.estimate import estimate
from compressor.core import InputSpec, Model, OnnxModel, UsageError, VerificationFailed, image_signature
from compressor.legality import tensorrt_faults
from compressor.legality._tensorrt_parser import parse
from compressor.lowering.export import export
from compressor.lowering.fp16 import convert_to_fp16, fp16_twin
from compressor.lowering.placement import Placement
from compressor.lowering.save import save
from compressor.quant.audit import audit

TEN = tensorrt_rules(integer_weights=True, half=False)
HALF = tensorrt_rules(integer_weights=True, half=True)
EIGHT = tensorrt_rules(integer_weights=False, half=False)
JETSON = catalog.find_target("jetson-orin")

with_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not here")


def placed(net: Net, rules: Any = TEN) -> onnx.ModelProto:
    """One of `test_placement`'s small nets, whose four channels are taken for enough."""
    loose = replace(rules, min_channels=0)
    return quantise(net.model("y"), loose, net.batch()).proto


def network(shape: tuple[int, ...]) -> Model:
    """A model of one input of ``shape`` (C, H, W) with a free batch."""
    signature, sizes = image_signature(InputSpec(*shape), 10)
    return Model(None, Path("absent.onnx"), "0", 0, 0, signature, sizes)


def exported(module: torch.nn.Module, shape: tuple[int, ...], opset: int) -> ir.Model:
    return export(module.eval(), *image_signature(InputSpec(*shape), 10), opset)


def maker(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def the(model: onnx.ModelProto, kind: str, number: int = 0) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == kind][number]


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def accepted(model: onnx.ModelProto, version: str) -> None:
    assert not tensorrt_faults(model, version)
    verdict = parse(model.SerializeToString())
    if verdict is not None:
        assert not verdict.errors, verdict.errors
        assert not verdict.warnings, verdict.warnings


# -- placement ----------------------------------------------------------------------------------


def test_of_a_residual_sum_the_skip_branch_alone_is_quantised() -> None:
    model = placed(residual())
    makers = sorted(maker(model, name).op_type for name in the(model, "Add").input)
    assert makers == ["Conv", "DequantizeLinear"]
    accepted(model, "11.4")


def test_only_inputs_are_quantised_and_no_activation_or_pool() -> None:
    model = placed(residual())
    for node in model.graph.node:
        if node.op_type in ("Relu", "GlobalAveragePool", "Flatten"):
            assert maker(model, node.input[0]).op_type != "DequantizeLinear"
        if node.op_type == "Conv":
            assert [maker(model, name).op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
            assert constant(model, node.input[2]).dtype == np.float32  # the bias


def test_a_classifier_of_single_rows_stays_float() -> None:
    model = placed(residual())
    assert maker(model, the(model, "Gemm").input[0]).op_type == "Flatten"


def test_what_moves_keeps_its_grid_and_is_left_in_float() -> None:
    model = placed(shortcut())
    skip = next(n for n in the(model, "Add").input if maker(model, n).op_type == "DequantizeLinear")
    pair = maker(model, skip)
    assert maker(model, maker(model, pair.input[0]).input[0]).op_type == "Pad"
    source = maker(model, the(model, "Slice").input[0])
    assert source.op_type == "DequantizeLinear"
    assert pair.input[1] == source.input[1]  # one scale
    accepted(model, "11.4")


def test_what_a_concat_joins_shares_one_scale() -> None:
    n = Net()
    a = n.op("Relu", n.conv("input", "a"), out="ar")
    b = n.op("Relu", n.conv(a, "b"), out="br")
    n.conv(n.op("Concat", a, b, out="c", axis=1), "y", cin=8)
    model = placed(n)
    pairs = [maker(model, name) for name in (*the(model, "Concat").input, the(model, "Conv", 2).input[0])]
    assert [pair.op_type for pair in pairs] == ["DequantizeLinear"] * 3
    assert len({pair.input[1] for pair in pairs}) == 1
    accepted(model, "11.4")


def test_a_concat_that_no_integer_op_reads_is_left_alone() -> None:
    n = Net()
    a, b = n.conv("input", "a"), n.conv("input", "b")
    n.op("Relu", n.op("Concat", a, b, out="c", axis=1), out="y")
    model = placed(n)
    assert [maker(model, name).op_type for name in the(model, "Concat").input] == ["Conv", "Conv"]


@pytest.mark.parametrize(
    ("channels", "integer"), [(3, False), (12, False), (8, True), (16, True), (24, True), (20, True)]
)
def test_thin_convolutions_are_skipped_unless_a_multiple_of_eight(channels: int, integer: bool) -> None:
    n = Net((channels, 8, 8))
    n.conv("input", "y", cin=channels, cout=channels)
    model = quantise(n.model("y"), TEN, n.batch()).proto
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node) == integer


def test_version_8_has_float_weights_with_a_pair_of_their_own() -> None:
    model = placed(residual(), EIGHT)
    pair = maker(model, the(model, "Conv").input[1])
    weight = constant(model, maker(model, pair.input[0]).input[0])
    assert weight.dtype == np.float32
    scale = constant(model, pair.input[1]).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(weight / scale, np.rint(weight / scale), atol=1e-3)  # they lie on their grid
    model.opset_import[0].version = 13
    accepted(model, "8.6")


def test_scales_that_are_stored_in_half_precision_are_rounded_up() -> None:
    n = residual()
    model = ir.from_proto(placed(n, HALF))
    convert_to_fp16(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constant(proto, node.input[1]).dtype == np.float16
    assert proto.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    exact = placed(n, TEN)
    for half_node, node in zip(proto.graph.node, exact.graph.node, strict=False):
        if node.op_type == half_node.op_type == "QuantizeLinear":
            assert np.all(constant(proto, half_node.input[1]) >= constant(exact, node.input[1]))
    accepted(proto, "11.4")


# -- FP16 -----------------------------------------------------------------------------------------


class Attention(torch.nn.Module):
    """Contrast-aware channel attention as IMDN has it, then a shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = torch.nn.Conv2d(16, 4, 1)
        self.excite = torch.nn.Conv2d(4, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((2, 3), keepdim=True)
        deviation = ((x - mean) ** 2).mean((2, 3), keepdim=True).sqrt()
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(0.01 * (mean + deviation)))))
        return torch.nn.functional.pixel_shuffle(x * gate, 2)


@pytest.mark.slow
def test_a_deviation_stays_in_float32_where_its_squares_overflow(tmp_path: Path) -> None:
    torch.manual_seed(0)
    exact = save(exported(Attention(), (16, 8, 8), 20), tmp_path / "exact.onnx", "fp32")
    half = fp16_twin(exact, tmp_path / "half.onnx")
    batch = (1000 * np.random.default_rng(0).standard_normal((2, 16, 8, 8))).astype(np.float32)
    runtime = catalog.find("backends", "onnxruntime")()
    expected, got = (runtime.open(model.path, threads=1)({"input": batch})["output"] for model in (exact, half))
    assert np.all(np.isfinite(got))
    assert np.max(np.abs(got - expected)) < 0.01 * np.max(np.abs(expected))
    model = onnx.load(str(half.path))
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    root = the(model, "Sqrt")
    assert types[root.input[0]] == types[root.output[0]] == TensorProto.FLOAT
    shuffle = the(model, "DepthToSpace")
    assert types[shuffle.input[0]] == TensorProto.FLOAT16
    assert next(a.s for a in shuffle.attribute if a.name == "mode") == b"CRD"
    accepted(model, "11.4")


def test_fp16_keeps_names_inputs_and_outputs(tmp_path: Path) -> None:
    n = residual()
    model = ir.from_proto(n.model("y"))
    common.ShapeInferencePass()(model)
    convert_to_fp16(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert {"input", "a", "b", "f", "g", "y"} <= {
        name for node in proto.graph.node for name in (*node.input, *node.output)
    }
    ends = (*proto.graph.input, *proto.graph.output)
    assert [value.type.tensor_type.elem_type for value in ends] == [TensorProto.FLOAT] * 2
    assert all(t.data_type == TensorProto.FLOAT16 for t in proto.graph.initializer)


# -- older opsets -----------------------------------------------------------------------------------


class Reduces(torch.nn.Module):
    """A reduction, an even split, a gate and a reshape: what changed between opsets 13 and 18."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1)
        x = torch.nn.functional.hardswish(left) + right.amax(dim=1, keepdim=True)
        return torch.nn.functional.pad(x, (0, 0, 0, 0, 1, 1)).flatten(1)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 17])
def test_an_older_opset_computes_the_same(opset: int, tmp_path: Path) -> None:
    new, old = (save(exported(Reduces(), (4, 6, 6), o), tmp_path / f"{o}.onnx", "fp32") for o in (20, opset))
    assert old.opset == opset
    assert onnx.load(str(old.path)).ir_version <= 8
    batch = np.random.default_rng(0).standard_normal((3, 4, 6, 6)).astype(np.float32)
    runtime = catalog.find("backends", "onnxruntime")()
    expected, got = (runtime.open(model.path, threads=1)({"input": batch})["output"] for model in (new, old))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert not tensorrt_faults(onnx.load(str(old.path)), "8.2" if opset == 13 else "8.5")


def test_what_has_no_older_form_is_refused() -> None:
    with pytest.raises(UsageError, match=r"LayerNormalization .* has no form in ONNX opset 13") as caught:
        exported(torch.nn.LayerNorm(6), (4, 6, 6), 13)
    assert caught.value.hint


# -- audit and estimates ------------------------------------------------------------------------------


def test_the_audit_counts_multiplications_by_precision() -> None:
    n = Net((16, 8, 8))
    n.conv(n.op("Relu", n.conv("input", "a", cin=16, cout=12), out="b"), "y", cin=12, cout=16)
    floats = audit(n.model("y"), {"input": (1, 16, 8, 8)})
    assert [layer.macs for layer in floats.layers] == [16 * 12 * 9 * 64] * 2
    assert floats.int8_share == 0
    m = Net((16, 8, 8))
    m.conv(m.conv("input", "a", cin=16, cout=16), "y", cin=16, cout=3)
    mixed = audit(quantise(m.model("y"), TEN, m.batch()).proto, {"input": (1, 16, 8, 8)})
    assert [layer.precision for layer in mixed.layers] == ["int8", "fp32"]
    assert mixed.int8_share == pytest.approx(16 / 19)


@pytest.mark.parametrize("name", catalog.toml_names("targets"))
def test_estimates_are_intervals_and_there_where_a_chip_is(name: str) -> None:
    target = catalog.find_target(name)
    n = Net((16, 8, 8))
    n.conv("input", "y", cin=16, cout=16)
    taken = estimate(n.model("y"), {"input": (1, 16, 8, 8)}, target)
    assert (taken is None) == (target.chip is None)
    if taken is not None:
        assert taken.estimated
        assert taken.interval is not None
        assert 0 < taken.interval[0] < taken.median < taken.interval[1]
        assert taken.samples == 0


def test_int8_is_estimated_faster_than_float_where_arithmetic_counts() -> None:
    n = Net((256, 32, 32))
    n.conv("input", "a", cin=256, cout=256)
    n.conv("a", "y", cin=256, cout=256)
    exact = n.model("y")
    integers = quantise(exact, TEN, n.batch(1)).proto
    slow, fast = (estimate(model, {"input": (1, 256, 32, 32)}, JETSON) for model in (exact, integers))
    assert slow is not None
    assert fast is not None
    assert fast.median < slow.median


# -- the script that builds on the device ---------------------------------------------------------------


def device(root: Path, free_mb: int = 6000) -> Path:
    """A board's /proc, /etc."""
    for path, text in (
        ("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0"),
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3"),
        ("proc/meminfo", f"MemTotal: 9999999 kB\nMemAvailable: {free_mb * 1024} kB\n"),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_engines_are_kept_by_a_devices_fingerprint(tmp_path: Path) -> None:
    root = device(tmp_path)
    key, facts = build_engine.fingerprint("10.3.0", root)
    assert facts["device"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert "R36" in facts["system"]
    assert build_engine.fingerprint("10.3.0", root)[0] == key
    assert build_engine.fingerprint("11.4.1", root)[0] != key
    assert JETSON.title in build_engine.board(root)


def test_a_build_that_memory_cannot_hold_is_refused(tmp_path: Path) -> None:
    build_engine._preflight(1 << 20, 1 << 30, device(tmp_path / "a"))
    with pytest.raises(build_engine.Failed, match="MB are free") as caught:
        build_engine._preflight(1 << 20, 1 << 30, device(tmp_path / "b", free_mb=900))
    assert caught.value.code == 5
    assert "--workspace" in caught.value.hint


LAYERS = [
    {"Name": "Conv_0 + Relu_1", "Metadata": "", "Inputs": [{"Format/Datatype": "Row major Int8 format"}]},
    {"Name": "fused", "Metadata": "[ONNX Layer: Conv_12]", "Inputs": [{"Format/Datatype": "Half"}]},
    "a layer without detail",
]


def test_realised_precisions_are_found_by_the_nodes_names() -> None:
    asked = [{"node": name, "macs": macs} for name, macs in (("Conv_0", 300), ("Conv_12", 100), ("Conv_1", 50))]
    found = build_engine.realised(LAYERS, asked)
    assert [node["realised"] for node in found] == ["int8", "fp16", None]  # Conv_1 is not Conv_12
    assert build_engine.int8_share(found) == 0.75
    assert build_engine.int8_share([]) is None


SPANS = {"input": [(1, 1, 8), (3, 3, 3), (32, 32, 32), (32, 32, 32)]}


def test_spans_are_what_was_said_of_an_axis_or_what_is_safe() -> None:
    image = {"name": "x", "shape": ["batch", 3, "height", "width"]}
    text = {"name": "ids", "shape": ["batch", "tokens"]}
    sizes = {"batch": 1, "height": 8, "width": 2000, "tokens": 128}
    spans = build_engine.shape_spans([image, text], sizes, {})
    assert spans["x"] == [(1, 1, 8), (3, 3, 3), (8, 8, 1024), (16, 2000, 2000)]
    assert spans["ids"] == [(1, 1, 8), (128, 128, 128)]
    told = build_engine.shape_spans([image, text], sizes, {"batch": [1, 4], "tokens": [1, 64], "height": [32, 64]})
    assert told["x"][:3] == [(1, 1, 4), (3, 3, 3), (32, 32, 64)]
    assert told["ids"][1] == (1, 64, 64)
    assert build_engine.shape_spans([image], {}, {})["x"][2] == (16, 256, 1024)


class _Recorder:
    """Stands for TensorRT's objects: it keeps what it is asked for."""

    def __init__(self, version: str) -> None:
        self.asked: list[tuple[str, Any]] = []
        kinds = {"STRONGLY_TYPED": 1, "EXPLICIT_BATCH": 0}
        self.module = types.SimpleNamespace(
            __version__=version,
            ILogger=type("ILogger", (), {"__init__": lambda s: None, "ERROR": 1}),
            Builder=lambda logger: self,
            OnnxParser=lambda network, logger: self,
            NetworkDefinitionCreationFlag=types.SimpleNamespace(**kinds),
            BuilderFlag=types.SimpleNamespace(FP16="fp16", INT8="int8"),
            MemoryPoolType=types.SimpleNamespace(WORKSPACE="workspace"),
            ProfilingVerbosity=types.SimpleNamespace(DETAILED="detailed"),
        )
        self.num_inputs, self.num_errors = 1, 0

    def __getattr__(self, name: str) -> Any:
        def called(*arguments: Any) -> Any:
            self.asked.append((name, arguments))
            if name == "get_input":
                return types.SimpleNamespace(name="input", shape=(-1, 3, 32, 32))
            if name == "build_serialized_network":
                return b"plan"
            if name == "serialize":
                return b"cache"
            return self

        return called


@pytest.mark.parametrize(
    ("version", "content", "flags", "typed"),
    [
        ("8.6.2", b"QuantizeLinear", ["fp16", "int8"], 1 << 0),
        ("10.3.0", b"QuantizeLinear", ["fp16", "int8"], 1 << 0),
        ("10.3.0", b"Conv", ["fp16"], 1 << 0),
        ("11.4.1", b"QuantizeLinear", [], 1 << 1),
    ],
)
def test_flags_are_for_versions_before_11(version: str, content: bytes, flags: list[str], typed: int) -> None:
    recorder = _Recorder(version)
    assert build_engine.build_plan(recorder.module, content, SPANS, b"", 1 << 30) == (b"plan", b"cache")
    assert [arguments[0] for name, arguments in recorder.asked if name == "set_flag"] == flags
    assert ("create_network", (typed,)) in recorder.asked
    assert ("set_memory_pool_limit", ("workspace", 1 << 30)) in recorder.asked
    shapes = next(arguments for name, arguments in recorder.asked if name == "set_shape")
    assert shapes == ("input", (1, 3, 32, 32), (1, 3, 32, 32), (8, 3, 32, 32))


@with_rtx
def test_the_script_builds_with_a_real_tensorrt() -> None:
    """TensorRT for RTX has version 11's API; without a GPU it only wants to be told what to build for."""
    import tensorrt_rtx as trt

    class Module:
        __version__ = "11.0"

        def __getattr__(self, name: str) -> Any:
            return getattr(trt, name)

    def configure(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)

    n = residual()
    content = placed(n).SerializeToString()
    spans = {"input": [(1, 1, 8), (4, 4, 4), (8, 8, 8), (8, 8, 8)]}
    plan, _ = build_engine.build_plan(Module(), content, spans, b"", 1 << 28, configure)
    assert plan[:4] == b"vtrt"
    with pytest.raises(build_engine.Failed, match="cannot read the graph") as caught:
        build_engine.build_plan(Module(), b"not a graph", SPANS, b"", 1 << 28, configure)
    assert caught.value.code == 6


def test_the_scripts_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert build_engine.main(["--help"]) == 0
    assert build_engine.main(["--workspace", "much"]) == 2
    assert "Exit codes" in capsys.readouterr().err


# -- rules and builds of the backends ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "integers", "rest"),
    [("jetson-orin", True, "float16"), ("jetson-thor", True, "float16"), ("jetson-xavier-nx", False, "float32"),
     ("rtx-4090", True, "float16"), ("rtx-3060", True, "float16")],
)  # fmt: skip
def test_rules_follow_the_targets_tensorrt(name: str, integers: bool, rest: str) -> None:
    target = catalog.find_target(name)
    rules = catalog.find("backends", target.backend)().rules(target)
    assert (rules.integer_weights, rules.float_dtype) == (integers, rest)
    assert rules.symmetric_activations
    assert not rules.quantize_outputs
    assert not rules.folds_packed_weights


def test_a_target_without_its_version_is_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match="no runtime_version") as caught:
        catalog.find("backends", "tensorrt")().rules(replace(JETSON, runtime_version=None))
    assert "runtime_version" in (caught.value.hint or "")


def test_onnx_runtime_refuses_a_graph_that_was_placed_for_tensorrt(tmp_path: Path) -> None:
    n = residual()
    (tmp_path / "model.onnx").write_bytes(placed(n).SerializeToString())
    made = OnnxModel(tmp_path / "model.onnx", "0", "int8", 21)
    host = catalog.find_target("x86-avx2")
    with pytest.raises(VerificationFailed, match="quantised for another runtime") as caught:
        catalog.find("backends", "onnxruntime")().build(made, network(n.shape), host, tmp_path)
    assert "compress run" in (caught.value.hint or "")
    own = quantise(n.model("y"), catalog.find("backends", "onnxruntime")().rules(host), n.batch()).proto
    (tmp_path / "own.onnx").write_bytes(own.SerializeToString())
    made = replace(made, path=tmp_path / "own.onnx")
    assert catalog.find("backends", "onnxruntime")().build(made, network(n.shape), host, tmp_path).status == "ready"


@with_rtx
@pytest.mark.parametrize("name", ["rtx-3060", "rtx-4090"])
def test_an_engine_for_rtx_is_built_here(name: str, tmp_path: Path) -> None:
    target = catalog.find_target(name)
    model = ir.from_proto(placed(residual(), HALF))
    convert_to_fp16(model)
    onnx_model = save(model, tmp_path / "model.onnx", "int8")
    engine = catalog.find("backends", "tensorrt-rtx")().build(onnx_model, network((4, 8, 8)), target, tmp_path)
    assert engine.status == "ready"
    assert engine.path.read_bytes()[:4] == b"vtrt"
    assert engine.facts["engine_bytes"] == engine.path.stat().st_size
    assert engine.facts["compute_capability"] == target.chip.compute_capability  # type: ignore[union-attr]
    assert "NVIDIA's parser" in engine.facts["judged_by"]
    json.dumps(dict(engine.facts))


@with_rtx
@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["resnet56", "mobilenetv2"])
def test_a_jetsons_graphs_are_taken_in_silence_and_build_for_two_gpus(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    """INT8 and FP16 of the real teacher and of a student, for SM86 and SM89."""
    from compressor.frontend import load_checkpoint
    from compressor.quant.ranges import activation_ranges

    if name == "resnet56":
        module = load_checkpoint(shared_data / "teachers" / "resnet56_cifar10.pt").build().eval()
    else:
        blocks = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 2, 2], [6, 64, 2, 2]]
        family = catalog.find("models", "mobilenetv2")
        module = family.decode({"blocks": blocks, "last": 256}, InputSpec(3, 32, 32), 10).build().eval()
    exact = save(exported(module, (3, 32, 32), JETSON.opset), tmp_path / "exact.onnx", "fp32")
    graph = ir.load(exact.path)
    placement = Placement(graph, catalog.find("backends", "tensorrt")().rules(JETSON))
    batch = np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)
    placement.apply(activation_ranges(graph, placement.tensors, [{"input": batch}], "minmax", lambda *_: None))
    convert_to_fp16(graph)
    integers = save(graph, tmp_path / "int8.onnx", "int8")
    for made in (integers, fp16_twin(exact, tmp_path / "half.onnx")):
        accepted(onnx.load(str(made.path)), "10.3")
        for gpu in ("rtx-3060", "rtx-4090"):
            work = tmp_path / f"{made.precision}-{gpu}"
            work.mkdir()
            engine = catalog.find("backends", "tensorrt-rtx")().build(
                made, network((3, 32, 32)), catalog.find_target(gpu), work
            )
            print(name, made.precision, gpu, f"{engine.facts['engine_bytes']:,} bytes")
            assert engine.status == "ready"
    assert audit(onnx.load(str(integers.path)), {"input": (1, 3, 32, 32)}).int8_share > JETSON.int8_share
