"""Foreign ONNX files cleaned: what a graph computes stays, and its form is one that every tool here can take."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from compressor.core import UsageError
from compressor.frontend import load_onnx
from compressor.lowering.clean_onnx import clean_graph

Feeds = dict[str, NDArray[np.generic]]
RNG = np.random.default_rng(0)


def run(model: onnx.ModelProto, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, feeds), strict=True))


def cleaned(model: onnx.ModelProto, opset: int = 21) -> onnx.ModelProto:
    """The cleaned graph as a file, checked; the model that was given is left as it was."""
    before = model.SerializeToString()
    made = ir.to_proto(clean_graph(model, opset))
    assert model.SerializeToString() == before
    del made.graph.value_info[:]
    onnx.checker.check_model(made, full_check=True)
    assert [(each.domain, each.version) for each in made.opset_import] == [("", opset)]
    assert [value.name for value in made.graph.output] == [value.name for value in model.graph.output]
    weights = {tensor.name for tensor in model.graph.initializer}
    assert [v.name for v in made.graph.input] == [v.name for v in model.graph.input if v.name not in weights]
    return made


def same(model: onnx.ModelProto, made: onnx.ModelProto, feeds: Feeds) -> None:
    expected, got = run(model, feeds), run(made, feeds)
    assert list(expected) == list(got)
    for name, array in expected.items():
        largest = max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-4 * largest, err_msg=name)


def graph(text: str, opset: int = 18, ir_version: int = 8, **weights: NDArray[np.generic]) -> onnx.ModelProto:
    """A model of the nodes, inputs and outputs in ONNX's own text form, with these initializers."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> '
    model: onnx.ModelProto = parser.parse_model(header + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


# -- the files of other people ----------------------------------------------------------------

FREE = {"text-angle": {"x": (2, 3, 48, 192)}, "text-detector": {"x": (1, 3, 320, 256)}}
"""Sizes of free axes that are not a batch."""
SHAPES: dict[str, dict[str, list[int | str]]] = {
    "text-angle": {"x": ["batch", 3, "x_axis2", "x_axis3"], "save_infer_model/scale_0.tmp_1": ["batch", 2]},
    "text-detector": {
        "x": ["batch", 3, "x_axis2", "x_axis3"], "sigmoid_0.tmp_0": ["batch", 1, "x_axis2", "x_axis3"],
    },
    "portrait-prisma": {"input_3": ["batch", 3, 256, 256], "permute_2": ["batch", 1, 256, 256]},
    "file-type": {"bytes": ["batch", 2048], "target_label": ["batch", 214]},
    "voice-activity": {
        "input": ["sequence_length", 576], "h": [1, 1, 128], "c": [1, 1, 128],
        "speech_probs": ["sequence_length"], "hn": [1, 1, 128], "cn": [1, 1, 128],
    },
}  # fmt: skip
NAMES = (
    "denoise-lstm", "face-ssd", "fastestdet", "file-type", "gender", "portrait-prisma", "portrait-sinet",
    "speech-stream", "text-angle", "text-detector", "voice-activity", "yunet",
)  # fmt: skip
SCALES = {
    "yunet": (0, 255),
    "face-ssd": (-1, 1),
    "text-angle": (-1, 1),
    "speech-stream": (-1, 1),
    "denoise-lstm": (0, 4),
}


def real_feeds(name: str, model: onnx.ModelProto) -> Feeds:
    """Values of the kind and range that the network was made for; states are small."""
    feeds: Feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = FREE.get(name, {}).get(value.name) or tuple(axis.dim_value or 2 for axis in kind.shape.dim)
        if kind.elem_type == TensorProto.INT32:
            feeds[value.name] = RNG.integers(0, 257, shape).astype(np.int32)
        else:
            least, most = SCALES.get(name, (0, 1))
            feeds[value.name] = RNG.uniform(least, most, shape).astype(np.float32)
    return feeds


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("name", NAMES)
def test_files_of_other_people(name: str, opset: int, shared_data: Path) -> None:
    path = shared_data / "zoo" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"no {path}")
    model = load_onnx(path)
    made = cleaned(model, opset)
    same(model, made, real_feeds(name, made))
    done = operators(made)
    assert not done["Constant"] + done["Identity"] + done["Dropout"]
    assert len(made.graph.node) <= len(model.graph.node)
    assert shapes(made) == SHAPES.get(name, shapes(made))
    assert all(
        isinstance(axis, int) or re.fullmatch(r"[\w.]+", axis) for shape in shapes(made).values() for axis in shape
    )
    ends = {value.name for value in (*made.graph.input, *made.graph.output)}
    inside = {name for node in made.graph.node for name in (*node.input, *node.output) if name} - ends
    assert all(re.fullmatch(r"[A-Za-z_][\w.]*", each) for each in inside)
    assert not made.metadata_props
    assert not made.doc_string


# -- one step each ----------------------------------------------------------------------------


def test_older_graphs_are_raised_with_their_format() -> None:
    """Opset 7, where weights are inputs too and Upsample was not yet Resize."""
    model = graph(
        """g (float[1,2,4,4] x, float[3,2,3,3] w) => (float[1,3,8,8] y) {
            a = Conv <pads = [1,1,1,1]> (x, w)
            b = Upsample <scales = [1.0,1.0,2.0,2.0]> (a)
            y = Softmax <axis = 3> (b)
        }""",
        opset=7,
        ir_version=3,
        w=normal(3, 2, 3, 3),
    )
    made = cleaned(model)
    assert made.ir_version == 10
    assert operators(made) == {"Conv": 1, "Resize": 1, "Softmax": 1}
    same(model, made, {"x": normal(1, 2, 4, 4)})


@pytest.mark.parametrize(("found", "opset"), [(20, 17), (22, 21), (18, 13), (21, 13)])
def test_newer_graphs_are_lowered(found: int, opset: int) -> None:
    model = graph(
        """g (float[N,2,4,4] x) => (float[N,2] y) {
            a = Relu (x)
            axes = Constant <value = int64[2] {2,3}> ()
            y = ReduceMax <keepdims = 0> (a, axes)
        }""",
        opset=found,
    )
    made = cleaned(model, opset)
    same(model, made, {"x": normal(3, 2, 4, 4)})


@pytest.mark.parametrize(("found", "operator", "opset"), [(20, "Gelu", 17), (24, "Swish", 21)])
def test_an_operator_without_an_older_form_is_named(found: int, operator: str, opset: int) -> None:
    with pytest.raises(UsageError, match=operator) as caught:
        clean_graph(graph(f"g (float[2] x) => (float[2] y) {{ y = {operator} (x) }}", opset=found), opset)
    assert caught.value.hint


def test_constants_and_shape_arithmetic_are_folded() -> None:
    model = graph(
        """g (float[1,6,4] x) => (float[a,b] y) {
            s = Shape (x)
            zero = Constant <value = int64 {0}> ()
            n = Gather <axis = 0> (s, zero)
            ax = Constant <value = int64[1] {0}> ()
            n1 = Unsqueeze (n, ax)
            rest = Constant <value_ints = [-1]> ()
            to = Concat <axis = 0> (n1, rest)
            flat = Reshape (x, to)
            two = Constant <value_float = 2.0> ()
            four = Mul (two, two)
            y = Mul (flat, four)
        }"""
    )
    made = cleaned(model)
    assert operators(made) == {"Reshape": 1, "Mul": 1}
    assert shapes(made)["y"] == [1, 24]
    same(model, made, {"x": normal(1, 6, 4)})


def test_a_reshape_by_a_free_batch_is_constant() -> None:
    model = graph(
        """g (float[N,6,4] x) => (float[a,b] y) {
            s = Shape <start = 0, end = 1> (x)
            rest = Constant <value_ints = [24]> ()
            to = Concat <axis = 0> (s, rest)
            y = Reshape (x, to)
        }"""
    )
    made = cleaned(model)
    assert operators(made) == {"Reshape": 1}
    assert shapes(made) == {"x": ["batch", 6, 4], "y": ["batch", 24]}
    for samples in (1, 5):
        same(model, made, {"x": normal(samples, 6, 4)})


def batch_norm(channels: int) -> dict[str, NDArray[np.generic]]:
    variance = np.abs(normal(channels)) + np.float32(0.1)
    return {"g": normal(channels), "b": normal(channels), "m": normal(channels), "v": variance}


@pytest.mark.parametrize("bias", ["", ", c"])
@pytest.mark.parametrize(
    ("product", "weight", "channels", "image"),
    [
        ("Conv", (6, 2, 3, 3), 6, True),
        ("Conv <group = 2>", (6, 1, 3, 3), 6, True),
        ("ConvTranspose", (2, 6, 3, 3), 6, True),
        ("ConvTranspose <group = 2>", (2, 3, 3, 3), 6, True),
        ("Gemm", (8, 6), 6, False),
        ("Gemm <transB = 1, alpha = 0.5, beta = 3.0>", (6, 8), 6, False),
    ],
)
def test_batch_normalization_is_folded(
    product: str, weight: tuple[int, ...], channels: int, image: bool, bias: str
) -> None:
    x = "N,2,5,5" if image else "N,8"
    axes = "a,b,c,d" if image else "a,b"
    model = graph(
        f"""g (float[{x}] x) => (float[{axes}] y) {{
            p = {product} (x, w{bias})
            n = BatchNormalization <epsilon = 0.01> (p, g, b, m, v)
            y = Relu (n)
        }}""",
        w=normal(*weight),
        **({"c": normal(channels)} if bias else {}),
        **batch_norm(channels),
    )
    made = cleaned(model)
    assert operators(made) == {product.split()[0]: 1, "Relu": 1}
    same(model, made, {"x": normal(3, 2, 5, 5) if image else normal(3, 8)})


def test_scales_and_shifts_a_channel_are_folded() -> None:
    """As Paddle exports a bias, and Keras a normalisation; what has another shape or another reader stays."""
    model = graph(
        """g (float[1,2,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] z) {
            p = Conv (x, w)
            q = Add (p, shift)
            r = Mul (scale, q)
            s = Sub (one, r)
            y = Div (s, two)
            c = Conv (x, w)
            z = Add (c, map)
        }""",
        w=normal(4, 2, 3, 3),
        shift=normal(1, 4, 1, 1),
        scale=normal(4, 1, 1),
        one=np.float32(1.0),
        two=np.float32(2.0),
        map=normal(4, 3, 3),
    )
    made = cleaned(model)
    assert operators(made) == {"Conv": 2, "Add": 1}
    same(model, made, {"x": normal(1, 2, 5, 5)})


def test_a_normalization_that_others_read_past_stays() -> None:
    model = graph(
        """g (float[1,2,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] p) {
            p = Conv (x, w)
            y = BatchNormalization (p, g, b, m, v)
        }""",
        w=normal(4, 2, 3, 3),
        **batch_norm(4),
    )
    made = cleaned(model)
    assert operators(made) == {"Conv": 1, "BatchNormalization": 1}
    same(model, made, {"x": normal(1, 2, 5, 5)})


def test_identities_dropouts_and_dead_nodes_go() -> None:
    model = graph(
        """g (float[N,4] x) => (float[N,4] y, float[N,4] again) {
            a = Identity (x)
            b = Dropout (a)
            c = Relu (b)
            dead = Exp (c)
            y = Identity (c)
            again = Identity (y)
        }"""
    )
    made = cleaned(model)
    assert operators(made) == {"Relu": 1, "Identity": 1}  # of two outputs of one value one needs a copy
    same(model, made, {"x": normal(2, 4)})


def test_odd_names_inside_are_plain_and_those_outside_stay() -> None:
    nodes = [
        helper.make_node("Relu", ["in/put:0"], ["12"], name="?"),
        helper.make_node("Mul", ["12", "w eight"], ["a/b?"]),
        helper.make_node("Add", ["a/b?", "12"], ["out/put.1"]),
    ]
    x = helper.make_tensor_value_info("in/put:0", TensorProto.FLOAT, ["?", 3])
    y = helper.make_tensor_value_info("out/put.1", TensorProto.FLOAT, None)
    weight = numpy_helper.from_array(normal(3), "w eight")
    made_graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    model = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    made = cleaned(model)
    inside = {name for node in made.graph.node for name in (*node.input, *node.output)} - {"in/put:0", "out/put.1"}
    assert len(inside) == 3
    assert all(re.fullmatch(r"[A-Za-z_]\w*", name) for name in inside)
    assert [node.name for node in made.graph.node] == ["Relu_0", "Mul_1", "Add_2"]
    same(model, made, {"in/put:0": normal(2, 3)})


@pytest.mark.parametrize("axis", ["?", "None", "-1", "", "unk__7", -1, 0, None])
def test_free_axes_without_a_name_get_one(axis: str | int | None) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [axis, 3, axis, axis])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [axis, 3, axis, axis])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [axis, 3, axis, axis])
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("MaxPool", ["x"], ["z"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y, z]), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    made = cleaned(model)
    assert shapes(made) == {
        "x": ["batch", 3, "x_axis2", "x_axis3"],
        "y": ["batch", 3, "x_axis2", "x_axis3"],
        "z": ["batch", 3, "z_axis2", "z_axis3"],
    }
    if axis != 0:  # ONNX Runtime takes that for the size of the original
        same(model, made, {"x": normal(2, 3, 8, 9)})


def test_a_multiple_of_an_axis_says_so() -> None:
    model = graph(
        """g (float[n,3,h,w] x) => (float[a,b,c,d] y) {
            s = Constant <value_floats = [1.0,1.0,2.0,2.0]> ()
            y = Resize (x, , s)
        }"""
    )
    assert shapes(cleaned(model)) == {"x": ["batch", 3, "h", "w"], "y": ["batch", 3, "2*h", "2*w"]}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("float[n,4] a, float[n,4] b", (["batch", 4], ["batch", 4])),
        ("float[unk__1,4] a, float[unk__2,4] b", (["batch", 4], ["batch", 4])),
        ("float[rows,4] a, float[columns,4] b", (["rows", 4], ["columns", 4])),
        ("float[time,4] a, float[1,4] b", (["time", 4], [1, 4])),
    ],
)
def test_what_is_a_batch(inputs: str, expected: tuple[list[int | str], list[int | str]]) -> None:
    """The first axis, where all inputs have it free: a state of fixed size is none of a batch."""
    made = shapes(cleaned(graph(f"g ({inputs}) => (float[p,q] y) {{ y = Concat <axis = 0> (a, b) }}")))
    assert (made["a"], made["b"]) == expected


def test_wrong_shapes_in_the_file_are_not_believed() -> None:
    model = graph("g (float[N,4] x) => (float[1,4] y) { y = Relu (x) }")
    assert shapes(cleaned(model))["y"] == ["batch", 4]


def test_branches_stay() -> None:
    """An If by a value that is known only at run time, its bodies of floats."""
    model = graph(
        """g (float[2] x, bool flag) => (float[2] y) {
            y = If (flag) <
                then_branch = t () => (float[2] p) { two = Constant <value_float = 2.0> () p = Mul (x, two) },
                else_branch = e () => (float[2] p) { p = Identity (x) }
            >
        }"""
    )
    made = cleaned(model)
    assert operators(made)["If"] == 1
    for flag in (True, False):
        same(model, made, {"x": normal(2), "flag": np.array(flag)})


def test_an_opset_that_no_node_uses_is_dropped(tmp_path: Path) -> None:
    model = graph("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    onnx.save(model, tmp_path / "model.onnx")
    cleaned(load_onnx(tmp_path / "model.onnx"))


def test_a_resize_of_opset_11_loses_its_empty_inputs() -> None:
    """NVIDIA's parser refuses tensors without an entry, which stand for an input that is not given."""
    model = graph(
        """g (float[batch,3,4,4] input) => (float[batch,3,8,8] output)
        { output = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
          (input, none, none, sizes) }""",
        opset=11,
        none=np.empty(0, np.float32),
        sizes=np.array([2, 3, 8, 8], np.int64),
    )
    made = cleaned(model, 20)
    same(model, made, {"input": normal(2, 3, 4, 4)})
    assert list(made.graph.node[0].input[:3]) == ["input", "", ""]
