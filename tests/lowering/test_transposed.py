"""Transposed convolutions as integers: whole, in groups and depthwise, under each runtime's rules."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from graphs import Net, Quantised, decibels, quantise, run
from torch import nn

from compressor import catalog
from compressor.core import InputSpec, QdqRules, image_signature
from compressor.legality import judge_for_tensorrt
from compressor.lowering.fp16 import convert_to_fp16
from compressor.lowering.placement import Placement
from compressor.lowering.save import save
from compressor.quant.audit import audit
from compressor.quant.fake_quant import FakeQuantised
from compressor.quant.ranges import activation_ranges

CHANNELS = 32
GROUPS = (1, 4, CHANNELS)
every_group = pytest.mark.parametrize("groups", GROUPS)


def rules_of(name: str) -> QdqRules:
    target = catalog.find_target(name)
    rules: QdqRules = catalog.find("backends", target.backend)().rules(target)
    return rules


def transposed(groups: int) -> Net:
    n = Net((CHANNELS, 6, 6))
    weight = n.rng.standard_normal((CHANNELS, CHANNELS // groups, 3, 3)) * 0.2
    weight *= np.linspace(0.2, 2, CHANNELS // groups)[:, None, None]  # output channels of unlike ranges
    bias = n.rng.standard_normal(CHANNELS)
    n.op(
        "ConvTranspose", "input", n.const("w", weight.astype(np.float32)), n.const("b", bias.astype(np.float32)),
        out="y", group=groups, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1],
    )  # fmt: skip
    return n


def placed(groups: int, target: str) -> tuple[Net, Quantised]:
    n = transposed(groups)
    return n, quantise(n.model("y"), rules_of(target), n.batch())


@every_group
@pytest.mark.parametrize("target", ["host", "intel-core-ultra", "jetson-orin", "jetson-xavier-nx", "rtx-3060"])
def test_integers_compute_what_the_floats_do(groups: int, target: str) -> None:
    n, made = placed(groups, target)
    (expected,), (got,) = run(n.model("y"), n.batch()), run(made.proto, n.batch(), exact=True)
    assert decibels(expected, got) > 30


@every_group
def test_openvino_has_a_scale_for_each_channel_that_groups_share(groups: int) -> None:
    _, made = placed(groups, "intel-core-ultra")
    integers, scale, axis = made.weight(made.node("ConvTranspose"))
    assert axis == 1
    assert scale.shape == (CHANNELS // groups,)
    np.testing.assert_allclose(np.abs(integers).max((0, 2, 3)), 127)


@every_group
def test_tensorrt_has_one_scale_and_leaves_the_depthwise_in_float(groups: int) -> None:
    for target in ("jetson-orin", "rtx-3060"):
        _, made = placed(groups, target)
        node = made.node("ConvTranspose")
        share = audit(made.proto, {"input": (1, CHANNELS, 6, 6)}).int8_share
        assert share == (0 if groups == CHANNELS else 1)
        if groups < CHANNELS:
            assert made.weight(node)[1].shape == ()


@every_group
def test_openvino_runs_it(groups: int, tmp_path: Path) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not here")
    n, made = placed(groups, "intel-core-ultra")
    (tmp_path / "model.onnx").write_bytes(made.proto.SerializeToString())
    session = catalog.find("backends", "openvino")().open(tmp_path / "model.onnx", threads=1)
    (expected,) = run(n.model("y"), n.batch())
    assert decibels(expected, session({"input": n.batch()})["y"]) > 30


@every_group
@pytest.mark.parametrize("target", ["jetson-orin", "rtx-3060"])
def test_tensorrt_takes_it(groups: int, target: str) -> None:
    _, made = placed(groups, target)
    graph = ir.from_proto(made.proto)
    convert_to_fp16(graph)
    assert "own rules" in judge_for_tensorrt(ir.to_proto(graph).SerializeToString(), "11.4")["judged_by"]


def test_a_bias_as_integers_has_the_scale_of_its_channel() -> None:
    n = transposed(4)
    rules = rules_of("intel-core-ultra")
    made = quantise(n.model("y"), dataclasses.replace(rules, integer_bias=frozenset({"ConvTranspose"})), n.batch())
    node = made.node("ConvTranspose")
    dequantise = made.maker(node.input[2])
    scale, _ = made.grid(dequantise)
    assert scale.shape == (CHANNELS,)
    np.testing.assert_allclose(scale[:8], scale[8:16])
    real = made.constants[dequantise.input[0]] * scale
    np.testing.assert_allclose(real, onnx.numpy_helper.to_array(n.constants[1]), atol=1e-3)


def test_a_large_bias_of_any_group_still_fits() -> None:
    n = transposed(4)
    bias = onnx.numpy_helper.to_array(n.constants[1]).copy()
    weight = onnx.numpy_helper.to_array(n.constants[0]).copy()
    weight[:, 3], bias[8 + 3] = 0, 1e4  # a dead channel whose bias is in the second group
    n.constants[:] = [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")]
    made = quantise(n.model("y"), rules_of("intel-core-ultra"), n.batch())
    _, scale, _ = made.weight(made.node("ConvTranspose"))
    step = made.grid(made.node("QuantizeLinear"))[0]
    assert 1e4 / (scale[3] * step) <= 2**31


@pytest.mark.slow
@every_group
@pytest.mark.parametrize("target", ["intel-core-ultra", "jetson-orin"])
def test_training_sees_what_the_runtime_computes(groups: int, target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(16, CHANNELS, 3, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, 2, 1, output_padding=1, groups=groups),
    ).eval()  # fmt: skip
    signature, sizes = image_signature(InputSpec(16, 8, 8), CHANNELS)
    images = [torch.randn(4, 16, 8, 8) for _ in range(2)]
    rules = dataclasses.replace(rules_of(target), float_dtype="float32")  # scales in half precision are rounded up
    made = FakeQuantised(network, rules, signature, sizes, 20, images)
    _, graph = made.lowered(network)
    path = save(graph, tmp_path / "model.onnx", "int8").path
    session = catalog.find("backends", "onnxruntime")().open(path, threads=1, exact=True)
    with torch.inference_mode():
        trained = made.module(images[0]).numpy()
    assert decibels(trained, session({"input": images[0].numpy()})["output"]) > 45


@every_group
def test_ranges_are_gathered_behind_it(groups: int) -> None:
    n = transposed(groups)
    graph = ir.from_proto(n.model("y"))
    placement = Placement(graph, rules_of("intel-core-ultra"))
    ranges = activation_ranges(graph, placement.tensors, [{"input": n.batch()}], "minmax", lambda *_: None)
    assert set(ranges) == set(placement.tensors) == {"input"}
