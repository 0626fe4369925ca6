"""From torch to clean ONNX."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compressor.core import InputSpec, Signature, TensorSpec, UsageError, image_signature
from compressor.lowering.export import export
from compressor.lowering.save import save
from compressor.lowering.tidy import tidy
from compressor.models.cifar_resnet import CifarResNet

INPUT = InputSpec(3, 8, 8)


def _network() -> nn.Module:
    torch.manual_seed(0)
    module = CifarResNet((1, 1), (4, 8), outputs=5).build().eval()
    for buffer in module.modules():
        if isinstance(buffer, nn.BatchNorm2d):
            nn.init.uniform_(buffer.running_mean, -1, 1)
            nn.init.uniform_(buffer.running_var, 0.5, 2)
    return module


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    module, path = _network(), tmp_path_factory.mktemp("export") / "model.onnx"
    save(export(module, *image_signature(INPUT), 21), path, "fp32")
    return module, path


def _run(path: Path, batch: np.ndarray) -> list[np.ndarray]:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"input": batch})


def _ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in model.graph.node)


# -- a whole network --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_batch_size_gives_what_torch_gives(exported: tuple[nn.Module, Path], size: int) -> None:
    module, path = exported
    batch = np.random.default_rng(size).standard_normal((size, *INPUT.shape)).astype(np.float32)
    with torch.inference_mode():
        np.testing.assert_allclose(_run(path, batch)[0], module(torch.from_numpy(batch)).numpy(), atol=1e-5)


def test_the_graph_is_clean(exported: tuple[nn.Module, Path]) -> None:
    model = onnx.load(str(exported[1]))
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["input"]
    assert [o.name for o in model.graph.output] == ["output"]
    batch, *rest = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [d.dim_value for d in rest] == [3, 8, 8]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
    assert not model.graph.value_info
    assert not model.functions
    assert not model.metadata_props
    assert not model.doc_string
    assert not model.graph.doc_string
    assert not model.graph.metadata_props
    for thing in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        assert not thing.doc_string
        assert not thing.metadata_props
    names = [n.name for n in model.graph.node]
    assert names == [f"{n.op_type}_{i}" for i, n in enumerate(model.graph.node)]
    used = {i for n in model.graph.node for i in n.input}
    assert {t.name for t in model.graph.initializer} <= used
    assert str(Path.cwd()).encode() not in exported[1].read_bytes()


def test_option_a_is_one_slice_and_one_pad(exported: tuple[nn.Module, Path]) -> None:
    ops = _ops(onnx.load(str(exported[1])))
    assert (ops["Slice"], ops["Pad"]) == (1, 1)
    assert set(ops) <= {"Conv", "Relu", "Slice", "Pad", "Add", "GlobalAveragePool", "Flatten", "Reshape", "Gemm"}, ops
    assert ops["GlobalAveragePool"] == 1


def test_a_second_export_has_the_same_bytes(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    module, path = exported
    again = save(export(module, *image_signature(INPUT), 21), tmp_path / "again.onnx", "fp32")
    assert again.path.read_bytes() == path.read_bytes()
    assert again.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (again.precision, again.opset, again.made_from) == ("fp32", 21, None)
    assert [p.name for p in tmp_path.iterdir()] == ["again.onnx"]


def test_exporting_is_silent_and_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = x * 2
            return x.mean((-1, -2)), torch.relu(x)

    module = Two().eval()
    model = ir.to_proto(export(module, *image_signature(INPUT), 21))
    assert capfd.readouterr() == ("", "")
    # a mean that drops its axes is a pooling too, and the first of several outputs keeps its name
    assert model.graph.output[0].name == "output"
    assert len(model.graph.output) == 2
    ops = _ops(model)
    assert (ops["ReduceMean"], ops["GlobalAveragePool"]) == (0, 1)
    onnx.checker.check_model(model, full_check=True)


# -- what cannot be exported ------------------------------------------------------------------


class _Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x.flatten(1)


class _FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 192)


class _Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("no such thing")


@pytest.mark.parametrize("module", [_Branches(), _FixedBatch(), _Raises()])
def test_a_module_that_cannot_be_exported_is_a_usage_error(
    module: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"the model cannot be exported to ONNX: .") as caught:
        export(module.eval(), *image_signature(INPUT), 21)
    assert "torch.export" in (caught.value.hint or "")
    assert "\n" not in caught.value.what
    assert capfd.readouterr() == ("", "")


# -- cleaning, on graphs by hand --------------------------------------------------------------


def _model(nodes: list[onnx.NodeProto], constants: dict[str, object], outputs: tuple[str, ...]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 2, 9, 9])],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def _slice(source: str, out: str, axis: int, start: int, end: int, step: int, constants: dict[str, object]) -> object:
    names = [f"{out}{part}" for part in ("st", "en", "ax", "sp")]
    constants.update(zip(names, ([start], [end], [axis], [step]), strict=True))
    return helper.make_node("Slice", [source, *names], [out])


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Clean, and compare with the original, output by output."""
    graph = ir.from_proto(model)
    proto = ir.to_proto(tidy(graph))
    onnx.checker.check_model(proto, full_check=True)
    assert [o.name for o in proto.graph.output] == [o.name for o in model.graph.output]
    batch = np.random.default_rng(0).standard_normal((3, 2, 9, 9)).astype(np.float32)
    for a, b in zip(*(ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
                      .run(None, {"input": batch}) for m in (model, proto)), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, atol=1e-6)
    return proto


@pytest.mark.parametrize(
    ("slices", "left"),
    [
        ([(2, 0, 99, 2), (3, 0, 99, 2)], 1),
        ([(2, 1, 8, 3), (3, -3, 99, 1), (1, 0, 1, 1)], 1),
        ([(3, 0, 99, 2), (2, 8, -99, -2)], 1),
        ([(2, 1, 9, 1), (2, 1, 9, 1)], 2),  # the same axis twice is not one Slice
        ([(3, 1, 9, 1), (-1, 1, 9, 1)], 2),  # nor is it under its other name
        ([(2, 1, 9, 1), (2, 1, 9, 1), (3, 2, 9, 1)], 2),
    ],
)
def test_joined_slices_give_what_the_separate_ones_gave(slices: list[tuple[int, int, int, int]], left: int) -> None:
    constants: dict[str, object] = {}
    names = ["input", *(f"s{i}" for i in range(len(slices) - 1)), "output"]
    nodes = [_slice(a, b, *s, constants) for a, b, s in zip(names, names[1:], slices, strict=False)]
    assert _ops(_cleaned(_model(nodes, constants, ("output",))))["Slice"] == left  # type: ignore[arg-type]


def test_a_slice_that_others_read_is_left_alone() -> None:
    constants: dict[str, object] = {}
    first = _slice("input", "a", 2, 0, 99, 2, constants)
    second = _slice("a", "output", 3, 0, 99, 2, constants)
    relu = helper.make_node("Relu", ["a"], ["other"])
    assert _ops(_cleaned(_model([first, second, relu], constants, ("output", "other"))))["Slice"] == 2
    # an output is a reader too, even where no node is
    assert _ops(_cleaned(_model([first, second], constants, ("output", "a"))))["Slice"] == 2


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, 2]])
def test_a_mean_over_height_and_width_is_a_pooling(axes: list[int], keep: int) -> None:
    node = helper.make_node("ReduceMean", ["input", "axes"], ["output"], keepdims=keep)
    ops = _ops(_cleaned(_model([node], {"axes": axes}, ("output",))))
    assert (ops["GlobalAveragePool"], ops["ReduceMean"]) == (1, 0)


@pytest.mark.parametrize("axes", [[1], [2], [1, 2, 3], [1, 2]])
def test_other_means_are_left_alone(axes: list[int]) -> None:
    node = helper.make_node("ReduceMean", ["input", "axes"], ["output"])
    assert _ops(_cleaned(_model([node], {"axes": axes}, ("output",))))["ReduceMean"] == 1


# -- saving -----------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    constants = {"axes": [2, 3]}
    node = helper.make_node("ReduceMean", ["input", "axes"], ["output"])
    good = ir.from_proto(_model([node], constants, ("output",)))
    first = save(good, tmp_path / "model.onnx", "fp32")
    kept = first.path.read_bytes()
    bad = ir.from_proto(_model([node], constants, ("output",)))
    next(iter(bad.graph)).op_type = "NoSuchOp"
    with pytest.raises(Exception, match="NoSuchOp"):
        save(bad, tmp_path / "model.onnx", "int8", first)
    assert first.path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_saved_graph_remembers_what_it_was_made_from(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["input"], ["output"])
    first = save(ir.from_proto(_model([node], {}, ("output",))), tmp_path / "a.onnx", "fp32")
    second = save(ir.from_proto(_model([node], {}, ("output",))), tmp_path / "b.onnx", "int8", first)
    assert [m.precision for m in second.chain()] == ["fp32", "int8"]
    assert second.opset == 21


class _Biased(nn.Module):
    """Attention with a learned bias, as in T5."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.bias = nn.Linear(16, 16), nn.Parameter(torch.randn(1, 2, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.project(x).view(x.shape[0], -1, 2, 8).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.bias)
        return attended.transpose(1, 2).contiguous().reshape(*x.shape[:-1], -1)


def test_attention_with_a_learned_bias(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = _Biased().eval(), torch.randn(3, 8, 16)
    signature = Signature(
        (TensorSpec("input", "float32", ("batch", 8, 16)),), (TensorSpec("output", "float32", ("batch", 8, 16)),)
    )
    save(export(module, signature, {}, 21), tmp_path / "model.onnx", "fp32")
    np.testing.assert_allclose(_run(tmp_path / "model.onnx", x.numpy())[0], module(x).detach().numpy(), atol=1e-5)
