"""The door for ONNX files: what a graph may hold, reach and make."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hostile.onnx import asked, branching, doubled, elsewhere, model, node, value, whole
from onnx import ModelProto, TensorProto, helper, numpy_helper
from places import ROOT

from compressor.core import CompressError, UnsafeInput, UsageError
from compressor.frontend import load_onnx
from compressor.frontend._onnx_tensors import _BITS

WEIGHT = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)


def saved(path: Path, made: ModelProto) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.SerializeToString())
    return path


def refused(kind: type[CompressError], *words: str, path: Path, content: bytes | None = None) -> None:
    with pytest.raises(kind) as caught:
        load_onnx(path, content)
    assert caught.value.hint
    for word in (path.name, *words):
        assert word in caught.value.what


def outputs(made: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"input": np.zeros((2, 1, 2, 2), np.float32)})[0]
    return found


# -- what is taken ------------------------------------------------------------------------------


def test_a_plain_model_is_taken_as_it_is(tmp_path: Path) -> None:
    made = model(node("Identity", "w"), weights=[numpy_helper.from_array(WEIGHT, "w")])
    assert load_onnx(saved(tmp_path / "m.onnx", made)) == made
    assert load_onnx(tmp_path / "nowhere.onnx", made.SerializeToString()) == made


def test_every_way_to_hold_numbers_is_known(tmp_path: Path) -> None:
    spelled = [
        helper.make_tensor(f"w{kind}", kind, [3], [1, 0, 1])
        for kind in TensorProto.DataType.values()
        if kind in _BITS and kind != TensorProto.STRING
    ]
    spelled += [numpy_helper.from_array(np.ones(3, kind), f"r{kind}") for kind in ("f2", "f4", "f8", "i1", "i8", "?")]
    spelled.append(helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b""]))
    assert load_onnx(saved(tmp_path / "m.onnx", model(weights=spelled))).graph.initializer == spelled


def test_a_graph_with_branches_and_runtime_operators_is_taken(tmp_path: Path) -> None:
    load_onnx(saved(tmp_path / "if.onnx", branching(3)))
    contributed = model(node("Gelu", "flat", domain="com.microsoft"))
    contributed.opset_import.add(domain="com.microsoft", version=1)
    load_onnx(saved(tmp_path / "gelu.onnx", contributed))
    unused = model()
    unused.opset_import.add(domain="pkg.onnxscript.torch_lib", version=1)
    load_onnx(saved(tmp_path / "unused.onnx", unused))


def test_large_weights_and_activations_are_no_bombs(tmp_path: Path) -> None:
    large = numpy_helper.from_array(np.zeros((4, 1 << 18), np.float32), "w")
    made = model(helper.make_node("MatMul", ["flat", "w"], ["wide"]), node("ReduceSum", "wide"), weights=[large])
    assert load_onnx(saved(tmp_path / "m.onnx", made)) == made


def test_old_models_are_taken_whose_weights_are_inputs_too(tmp_path: Path) -> None:
    made = model(node("Identity", "w"), weights=[numpy_helper.from_array(WEIGHT, "w")])
    made.graph.input.append(value("w", [1, 4]))
    made.ir_version = 3
    load_onnx(saved(tmp_path / "m.onnx", made))


# -- weights in other files -----------------------------------------------------------------------


def beside(folder: Path, **entries: object) -> Path:
    """A model with a weight of 16 bytes in another file of its folder."""
    made = elsewhere("weights.bin")
    for key, entry in entries.items():
        kept = [e for e in made.graph.initializer[0].external_data if e.key != key]
        del made.graph.initializer[0].external_data[:]
        made.graph.initializer[0].external_data.extend(kept)
        made.graph.initializer[0].external_data.add(key=key, value=str(entry))
    saved(folder / "m.onnx", made)
    (folder / "weights.bin").write_bytes(b"12345678" + WEIGHT.tobytes())
    return folder / "m.onnx"


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "sub/weights.bin", "link.bin"])
def test_weights_of_the_models_own_folder_are_read_in(tmp_path: Path, location: str) -> None:
    path = beside(tmp_path / "model", location=location, offset=8, length=16)
    (path.parent / "sub").mkdir()
    (path.parent / "sub" / "weights.bin").write_bytes((path.parent / "weights.bin").read_bytes())
    (path.parent / "link.bin").symlink_to("weights.bin")
    made = load_onnx(path)
    np.testing.assert_array_equal(numpy_helper.to_array(made.graph.initializer[0]), WEIGHT[0])
    np.testing.assert_array_equal(outputs(made), np.repeat(WEIGHT, 2, axis=0))  # no file is needed any more


def test_a_model_of_onnxs_own_making_is_read_in(tmp_path: Path) -> None:
    made = model(node("Identity", "w"), weights=[numpy_helper.from_array(WEIGHT, "w")])
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="data", size_threshold=0)
    read = load_onnx(tmp_path / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[0]), WEIGHT)


@pytest.mark.parametrize(
    "location", ["../secret", "sub/../../secret", "/etc/hostname", "out.bin", "up/secret", "..\\secret", "", ".", "\0"]
)
def test_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    path = beside(tmp_path / "model", location=location)
    (tmp_path / "secret").write_bytes(bytes(64))
    (path.parent / "sub").mkdir()
    (path.parent / "out.bin").symlink_to("../secret")
    (path.parent / "up").symlink_to("..")
    refused(UnsafeInput, "'w'", path=path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: os.link(p.parent / "weights.bin", p.parent / "other"), "hard link"),
        (lambda p: ((p.parent / "weights.bin").unlink(), os.mkfifo(p.parent / "weights.bin")), "no regular file"),
        (lambda p: (p.parent / "weights.bin").write_bytes(b"123"), "claims 16 bytes"),
    ],
)
def test_weights_of_odd_files_are_refused(tmp_path: Path, change: Callable[[Path], Any], words: str) -> None:
    path = beside(tmp_path)
    change(path)
    refused(UnsafeInput, words, path=path)


@pytest.mark.parametrize("entries", [{"offset": 9}, {"offset": -1}, {"length": 10**12}, {"length": 15}])
def test_weights_beyond_the_end_of_their_file_are_refused(tmp_path: Path, entries: dict[str, int]) -> None:
    refused(UnsafeInput, "claims 16 bytes", path=beside(tmp_path, **entries))


@pytest.mark.parametrize("entries", [{"offset": "x"}, {"location": "none.bin"}, {"location": "sub"}])
def test_weights_that_are_not_there_are_told(tmp_path: Path, entries: dict[str, str]) -> None:
    path = beside(tmp_path, **entries)
    (tmp_path / "sub").mkdir()
    with pytest.raises((UsageError, UnsafeInput), match=r"'w'"):
        load_onnx(path)


def test_a_claim_of_terabytes_in_other_files_reads_nothing(tmp_path: Path) -> None:
    made = elsewhere("weights.bin")
    made.graph.initializer[0].dims[:] = [1 << 40]
    (tmp_path / "weights.bin").touch()
    os.truncate(tmp_path / "weights.bin", 1 << 42)
    refused(UnsafeInput, "more than 2 GiB", path=saved(tmp_path / "m.onnx", made))


def test_content_that_is_given_may_not_name_files(tmp_path: Path) -> None:
    path = beside(tmp_path)
    refused(UnsafeInput, "another file", path=path, content=path.read_bytes())


def test_an_attributes_values_may_not_lie_elsewhere(tmp_path: Path) -> None:
    tensor = elsewhere("weights.bin").graph.initializer[0]
    beside(tmp_path)
    made = saved(tmp_path / "c.onnx", model(node("Constant", value=tensor)))
    refused(UnsafeInput, "another file", path=made)


# -- claims ---------------------------------------------------------------------------------------


def claim(**fields: Any) -> ModelProto:
    return model(weights=[TensorProto(name="w", **fields)])


@pytest.mark.parametrize(
    "made",
    [
        claim(data_type=TensorProto.FLOAT, dims=[2], raw_data=b"1234"),
        claim(data_type=TensorProto.FLOAT, dims=[2], float_data=[1]),
        claim(data_type=TensorProto.FLOAT16, dims=[2], int32_data=[1]),
        claim(data_type=TensorProto.INT4, dims=[3], raw_data=b"1"),
        claim(data_type=TensorProto.STRING, dims=[10**9], string_data=[b"x"]),
        claim(data_type=TensorProto.FLOAT, dims=[2**62, 2**62]),
        model(node("Constant", value=TensorProto(name="c", data_type=TensorProto.INT8, dims=[10**9], raw_data=b"1"))),
    ],
)
def test_numbers_that_are_not_there(tmp_path: Path, made: ModelProto) -> None:
    refused(UnsafeInput, "claims", path=saved(tmp_path / "m.onnx", made))


@pytest.mark.parametrize(
    "made",
    [
        claim(data_type=TensorProto.FLOAT, dims=[1], raw_data=b"12345678"),
        claim(data_type=TensorProto.FLOAT, dims=[1], raw_data=b"1234", float_data=[1]),
        claim(data_type=99, dims=[1], raw_data=b"1234"),
        claim(data_type=TensorProto.FLOAT, dims=[-1], raw_data=b"1234"),
        claim(data_type=TensorProto.FLOAT, dims=[1], raw_data=b"1234", segment=TensorProto.Segment(begin=0, end=1)),
    ],
)
def test_numbers_that_make_no_sense(tmp_path: Path, made: ModelProto) -> None:
    refused(UsageError, "'w'", path=saved(tmp_path / "m.onnx", made))


def sparse_weight() -> ModelProto:
    made = model()
    made.graph.sparse_initializer.add(dims=[10**12])
    return made


def sparse_constant() -> ModelProto:
    return model(node("Constant", sparse_value=onnx.SparseTensorProto(dims=[10**12])))


@pytest.mark.parametrize("make", [sparse_weight, sparse_constant])
def test_sparse_tensors_are_refused(tmp_path: Path, make: Callable[[], ModelProto]) -> None:
    refused(UnsafeInput, "sparse", path=saved(tmp_path / "m.onnx", make()))


def wide_input() -> ModelProto:
    made = model()
    made.graph.input.append(value("more", [10**6, 10**6]))
    return made


def wide_claim() -> ModelProto:
    made = model(node("Relu", "flat"))
    made.graph.value_info.append(value("extra", [10**6, 10**6]))
    return made


def outer() -> ModelProto:
    column = numpy_helper.from_array(np.zeros((50_000, 1), np.float32), "column")
    row = numpy_helper.from_array(np.zeros((1, 50_000), np.float32), "row")
    return model(helper.make_node("Mul", ["column", "row"], ["all"]), node("ReduceSum", "all"), weights=[column, row])


def many_constants() -> ModelProto:
    nodes = [helper.make_node("ConstantOfShape", ["size"], [f"c{i}"]) for i in range(5)]
    return model(*nodes, node("Identity", "flat"), weights=[whole("size", [1 << 24])])


def padded() -> ModelProto:
    return model(node("Pad", "flat", "pads"), weights=[whole("pads", [0, 0, 0, 1 << 40])])


def in_a_branch() -> ModelProto:
    made = branching(1)
    (inner,) = (a.g for a in made.graph.node[1].attribute if a.name == "else_branch")
    inner.node.insert(0, helper.make_node("Constant", [], ["size"], value=whole("size", [1 << 40, 4])))
    inner.node[1].CopyFrom(helper.make_node("Expand", ["flat", "size"], ["inner"]))
    return made


@pytest.mark.parametrize(
    "make",
    [wide_input, wide_claim, outer, many_constants, padded, in_a_branch, lambda: doubled(60)],
)
def test_graphs_that_would_make_huge_values(tmp_path: Path, make: Callable[[], ModelProto]) -> None:
    refused(UnsafeInput, path=saved(tmp_path / "m.onnx", make()))


def test_a_size_that_the_input_tells_is_left_to_the_runtime(tmp_path: Path) -> None:
    load_onnx(saved(tmp_path / "m.onnx", asked()))


# -- what is no model ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"text\n", b"\x08", b"\x08\x0a", b"\0" * 100, b"PK\3\4", b"\x3a\xff\xff\xff\x0f"]
)
def test_rubbish(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    refused(UsageError, "not an ONNX model", path=tmp_path / "m.onnx")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(UsageError, "named pipe", path=tmp_path / "pipe.onnx")
    refused(UsageError, "device", path=Path("/dev/zero"))
    refused(UsageError, "no file", path=tmp_path / "none.onnx")
    refused(UsageError, "directory", path=tmp_path)


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    for size, words in ((1 << 42, "bytes"), ((2 << 30) - 1, "not an ONNX model")):
        (tmp_path / "m.onnx").write_bytes(b"")
        os.truncate(tmp_path / "m.onnx", size)
        refused(UsageError, words, path=tmp_path / "m.onnx")


def named_badly() -> bytes:
    return model(node("Relu", "flat")).SerializeToString().replace(b"Relu", b"R\xfflu")


@pytest.mark.parametrize(
    "content",
    [
        named_badly(),
        model(node("Nonesuch", "flat")).SerializeToString(),
        model(node("Relu")).SerializeToString(),
        model(node("Relu", "nothing")).SerializeToString(),
        model(node("Relu", "flat"), node("Relu", "flat")).SerializeToString(),
    ],
    ids=["no UTF-8", "no such operator", "no input", "no such value", "two values of one name"],
)
def test_graphs_that_make_no_sense(tmp_path: Path, content: bytes) -> None:
    refused(UsageError, path=tmp_path / "m.onnx", content=content)


def test_what_the_library_does_not_know_is_dropped(tmp_path: Path) -> None:
    made = model()
    strange = made.SerializeToString() + b"\xa2\x06\x03new"  # field 100
    assert load_onnx(tmp_path / "m.onnx", strange).SerializeToString() == made.SerializeToString()


def test_a_training_graph_is_refused(tmp_path: Path) -> None:
    made = model()
    made.training_info.add()
    refused(UnsafeInput, "training", path=saved(tmp_path / "m.onnx", made))


def test_the_door_opens_without_torch() -> None:
    code = "import sys; from compressor.frontend import load_onnx; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_branches_and_domains_that_no_node_uses_enter(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 2]> g (float[2] x, bool flag) => (float[2] y) {
            y = If (flag) <
                then_branch = t () => (float[2] p) { p = Neg (x) },
                else_branch = e () => (float[2] p) { p = Relu (x) }
            >
        }"""
    )
    onnx.save(model, tmp_path / "model.onnx")
    assert load_onnx(tmp_path / "model.onnx") == model
