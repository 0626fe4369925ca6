"""The legality checker, beside NVIDIA's own parser over a corpus of small graphs, and alone where that cannot judge."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from engines.corpus import CORPUS, QUIET, constants_of, graph, op, weights

from compressor import catalog
from compressor.core import VerificationFailed
from compressor.legality import accelerator_coverage, placement_faults, tensorrt_faults
from compressor.legality._operators import IMPORTED_SINCE, opset_of
from compressor.legality._tensorrt import BEYOND_THE_PARSER
from compressor.legality._tensorrt_judge import judge_for_tensorrt as judge
from compressor.legality._tensorrt_parser import parse

NEWEST = "11.4"
"""The TensorRT whose parser the one for RTX is."""

with_parser = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not here")


def rules_of(model: onnx.ModelProto, version: str = NEWEST) -> list[str]:
    return sorted({fault.rule for fault in tensorrt_faults(model, version)})


# -- beside NVIDIA's parser ---------------------------------------------------------------------


def test_the_corpus_is_as_large_as_it_says() -> None:
    refused = [name for name, make in CORPUS.items() if rules_of(make())]
    assert len(CORPUS) >= 60
    assert len(refused) >= 25
    assert len(CORPUS) - len(refused) >= 25


@with_parser
@pytest.mark.parametrize("name", CORPUS)
def test_the_checker_refuses_just_what_nvidias_parser_does(name: str) -> None:
    model = CORPUS[name]()
    verdict = parse(model.SerializeToString())
    assert verdict is not None
    refused = bool(verdict.errors or verdict.warnings)
    faults = [f for f in tensorrt_faults(model, NEWEST) if f.rule not in BEYOND_THE_PARSER]
    assert bool(faults) == refused, (faults, verdict)


@with_parser
def test_the_table_of_operators_is_the_parsers_own() -> None:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    parser = trt.OnnxParser(builder.create_network(1), logger)
    names = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert {name for name in names if parser.supports_operator(name)} == set(IMPORTED_SINCE)


@pytest.mark.parametrize("name", QUIET)
def test_what_changes_in_silence_is_refused_too(name: str) -> None:
    faults = tensorrt_faults(CORPUS[name](), NEWEST)
    assert faults
    assert {fault.rule for fault in faults} <= BEYOND_THE_PARSER


# -- each fault says what to do -------------------------------------------------------------------

TRAPS = {
    "int32 bias": ("integer-bias", "DequantizeLinear DequantizeLinear_b", "leave the bias float"),
    "zero point": ("zero-point", "QuantizeLinear QuantizeLinear_xd_q", "symmetric int8"),
    "uint8 activations": ("unsigned", "QuantizeLinear QuantizeLinear_xd_q", "symmetric int8"),
    "per-channel activations": ("per-channel-activations", "QuantizeLinear QuantizeLinear_xd_q", "one scale"),
    "scale of zero": ("scale", "QuantizeLinear QuantizeLinear_xd_q", "calibrate"),
    "qlinear conv": ("operator", "QLinearConv QLinearConv_c", "without it"),
    "codes of bits": ("operator", "BitShift BitShift_u", "without it"),
    "indices of a max pool": ("second-output", "MaxPool MaxPool_p", "without"),
    "antialiased resize": ("resize", "Resize Resize_y", "antialiasing"),
    "uint8 constant": ("constant-type", "Cast Cast_f", "float"),
    "mixed types": ("types", "graph", "export it anew"),
    "blocked scale": ("blocks", "DequantizeLinear DequantizeLinear_w", "one scale"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_fault_names_the_node_and_the_mend(name: str) -> None:
    rule, node, hint = TRAPS[name]
    fault = next(f for f in tensorrt_faults(CORPUS[name](), NEWEST) if f.rule == rule)
    assert fault.node == node
    assert hint in fault.hint
    assert node in str(fault)


def test_the_judge_refuses_with_the_nodes_name() -> None:
    with pytest.raises(VerificationFailed, match="DequantizeLinear_b") as caught:
        judge(CORPUS["int32 bias"]().SerializeToString(), NEWEST)
    assert "float" in (caught.value.hint or "")
    said = judge(CORPUS["int8 conv"]().SerializeToString(), NEWEST)
    assert said["graph_for"] == NEWEST
    assert "own rules" in said["judged_by"]


def test_a_fault_inside_a_branch_is_found() -> None:
    model = CORPUS["either or"]()
    branch = next(a.g for n in model.graph.node for a in n.attribute if a.name == "then_branch")
    branch.node[0].op_type = "Det"
    assert "operator" in rules_of(model)


# -- what the newest parser cannot judge -------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "newest"),
    [("8.2", 13), ("8.5", 17), ("8.6", 17), ("10.3", 20), ("10.13", 20), ("10.16", 24), ("11.4", 25)],
)
def test_each_version_reads_up_to_its_opset(version: str, newest: int) -> None:
    major, minor = map(int, version.split("."))
    assert opset_of((major, minor)) == newest
    for opset, refused in ((newest, False), (newest + 1, True)):
        model = graph([op("Relu", "x")], {}, opset=opset)
        assert ("opset" in rules_of(model, version)) == refused


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        (constants_of("LayerNormalization", "x s", {"s": np.ones(8, np.float32)}, opset=17), "8.5", "8.6"),
        (constants_of("HardSwish", "x", {}, opset=17), "8.4", "8.5"),
        (constants_of("Pad", "x pads", {"pads": np.zeros(8, np.int64)}, mode="wrap", opset=19), "9.3", "10.0"),
    ],
    ids=["LayerNormalization", "HardSwish", "Pad"],
)
def test_an_operator_is_refused_before_the_version_that_imports_it(
    make: Callable[[], onnx.ModelProto], old: str, new: str
) -> None:
    assert "operator-age" in rules_of(make(), old)
    assert "operator-age" not in rules_of(make(), new)


def test_weights_as_integers_are_for_version_10_and_later() -> None:
    integers, floats = CORPUS["int8 conv"](), CORPUS["int8 conv, float weights"]()
    assert "integer-weights" in rules_of(integers, "8.6")
    assert "integer-weights" not in rules_of(integers, "10.3")
    assert "integer-weights" not in rules_of(floats, "8.6")


def test_computed_scales_are_for_version_10_and_later() -> None:
    model = CORPUS["computed scale"]()
    assert "computed-scale" in rules_of(model, "8.6")
    assert not rules_of(model, "10.3")


def test_the_accelerators_share_is_told_with_what_falls_back() -> None:
    model = CORPUS["channel attention"]()
    told = accelerator_coverage(model, "8.5")
    assert told.supported
    assert told.taken < told.nodes == len(model.graph.node)
    assert any("Sqrt" in line and "no such layer" in line for line in told.left)
    assert not accelerator_coverage(model, "10.13").supported
    assert accelerator_coverage(model, NEWEST).supported
    whole = accelerator_coverage(CORPUS["conv"](), "8.5")
    assert whole.taken == whole.nodes
    wide = graph([op("Conv", "x w", kernel_shape=[33, 33])], {"w": weights(16, 16, 33, 33)}, input=(1, 16, 64, 64))
    assert "kernel of more than 32" in accelerator_coverage(wide, "8.5").left[0]


# -- another runtime's placement ---------------------------------------------------------------------


def rules(backend: str, target: str) -> object:
    return catalog.find("backends", backend)().rules(catalog.find_target(target))


def test_a_graph_of_floats_has_no_placement() -> None:
    assert not placement_faults(CORPUS["conv"](), rules("onnxruntime", "x86-avx2"), "ONNX Runtime")  # type: ignore[arg-type]


def test_tensorrts_placement_is_not_onnx_runtimes() -> None:
    faults = placement_faults(CORPUS["int8 conv"](), rules("onnxruntime", "x86-avx2"), "ONNX Runtime")  # type: ignore[arg-type]
    assert [fault.rule for fault in faults] == ["placement"]
    assert "not uint8" in faults[0].what
    assert not placement_faults(CORPUS["int8 conv"](), rules("tensorrt", "jetson-orin"), "TensorRT")  # type: ignore[arg-type]
