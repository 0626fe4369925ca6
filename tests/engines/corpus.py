"""Small graphs, legal and illegal for TensorRT, each around one thing that may go wrong; by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CORPUS", "QUIET"]

Array = Any
_INPUT = ("batch", 16, 8, 8)


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Array],
    *,
    input: Sequence[int | str] = _INPUT,
    dtype: int = TensorProto.FLOAT,
    opset: int = 20,
) -> onnx.ModelProto:
    """A model with one input ``x`` and one output ``y``, whose type is what its maker gives."""
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", dtype, list(input))],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    kind = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.elem_type
    model.graph.output[0].type.tensor_type.elem_type = kind or TensorProto.FLOAT
    return model


def op(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node from the names of its inputs and outputs, set apart by blanks; ``-`` is an input left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), f"{kind}_{outputs.split()[0]}", **attributes)


def weights(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32)


def f32(*values: float) -> Array:
    return np.asarray(values[0] if len(values) == 1 else values, np.float32)


def i64(*values: int) -> Array:
    return np.asarray(values, np.int64)


def qdq(x: str, name: str, scale: str = "s", zero: str = "z", **attributes: Any) -> list[onnx.NodeProto]:
    """A pair: ``name`` is ``x`` on a grid."""
    pair = f"{x} {scale} {zero}", f"{name}_q {scale} {zero}"
    return [
        op("QuantizeLinear", pair[0], f"{name}_q", **attributes),
        op("DequantizeLinear", pair[1], name, **attributes),
    ]


GRID = {"s": f32(0.05), "z": np.int8(0)}
INTEGER_WEIGHT = {
    "w_q": np.ones((16, 16, 3, 3), np.int8),
    "ws": np.full(16, 0.01, np.float32),
    "wz": np.zeros(16, np.int8),
}
DQ_WEIGHT = op("DequantizeLinear", "w_q ws wz", "w", axis=0)
CONV = {"w": weights(16, 16, 3, 3)}
PADS = [1, 1, 1, 1]


def unary(kind: str, **attributes: Any) -> Callable[[], onnx.ModelProto]:
    return lambda: graph([op(kind, "x", **attributes)], {})


def quantised(
    constants: dict[str, Array] | None = None,
    *,
    bias: Sequence[onnx.NodeProto] = (),
    conv: str = "xd w",
    opset: int = 20,
    dtype: int = TensorProto.FLOAT,
    **grid: Any,
) -> Callable[[], onnx.ModelProto]:
    """A convolution in INT8, with whatever is to be wrong with it."""

    def make() -> onnx.ModelProto:
        nodes = [*qdq("x", "xd", **grid), DQ_WEIGHT, *bias, op("Conv", conv, pads=PADS)]
        return graph(nodes, {**GRID, **INTEGER_WEIGHT, **(constants or {})}, opset=opset, dtype=dtype)

    return make


def float_weight() -> onnx.ModelProto:
    """Float weights with a pair of their own, as TensorRT 8 wants them."""
    nodes = [*qdq("x", "xd"), *qdq("w0", "w", "ws", "wz", axis=0), op("Conv", "xd w", pads=PADS)]
    rest = {k: v for k, v in INTEGER_WEIGHT.items() if k != "w_q"}
    return graph(nodes, {**GRID, **rest, "w0": weights(16, 16, 3, 3)})


def half() -> onnx.ModelProto:
    """Casts, FP16 weights and FP16 scales: what a strongly typed network says."""
    nodes = [
        op("Cast", "x", "h", to=TensorProto.FLOAT16),
        *qdq("h", "hd"),
        DQ_WEIGHT,
        op("Conv", "hd w b", "c", pads=PADS),
        op("Cast", "c", to=TensorProto.FLOAT),
    ]
    constants = {
        **INTEGER_WEIGHT,
        "s": np.float16(0.05),
        "z": np.int8(0),
        "ws": np.full(16, 0.01, np.float16),
        "b": np.zeros(16, np.float16),
    }
    return graph(nodes, constants)


def mixed_types() -> onnx.ModelProto:
    """FP32 and FP16 in one sum, which ONNX does not allow either."""
    return graph([op("Cast", "x", "h", to=TensorProto.FLOAT16), op("Add", "x h")], {})


def residual() -> onnx.ModelProto:
    nodes = [*qdq("x", "xd"), DQ_WEIGHT, op("Conv", "xd w", "c", pads=PADS), op("Add", "c xd", "a"), op("Relu", "a")]
    return graph(nodes, {**GRID, **INTEGER_WEIGHT})


def attention() -> onnx.ModelProto:
    """Contrast-aware channel attention: mean and deviation over the image, in two passes."""
    nodes = [
        op("GlobalAveragePool", "x", "m"),
        op("Sub", "x m", "d"),
        op("Mul", "d d", "q"),
        op("ReduceMean", "q axes", "v", keepdims=1),
        op("Sqrt", "v", "s"),
        op("Add", "s m", "c"),
        op("Conv", "c w1", "e"),
        op("Relu", "e", "r"),
        op("Conv", "r w2", "g"),
        op("Sigmoid", "g", "k"),
        op("Mul", "x k"),
    ]
    return graph(nodes, {"axes": i64(2, 3), "w1": weights(4, 16, 1, 1), "w2": weights(16, 4, 1, 1)})


def concatenated() -> onnx.ModelProto:
    nodes = [*qdq("x", "a"), op("Relu", "x", "r"), *qdq("r", "b"), op("Concat", "a b", "c", axis=1), *qdq("c", "y")]
    return graph(nodes, GRID)


def computed_scale() -> onnx.ModelProto:
    """A scale that depends on the input: dynamic quantisation."""
    nodes = [op("ReduceMax", "x", "s", keepdims=0), *qdq("x", "y")]
    return graph(nodes, {"z": np.int8(0)})


def if_else() -> onnx.ModelProto:
    def branch(kind: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{kind}_o", TensorProto.FLOAT, None)
        return helper.make_graph([op(kind, "x", f"{kind}_o")], kind, [], [out])

    nodes = [
        op("ReduceSum", "x", "t", keepdims=0),
        op("Greater", "t zero", "c"),
        op("If", "c", then_branch=branch("Relu"), else_branch=branch("Sigmoid")),
    ]
    return graph(nodes, {"zero": f32(0)})


def resized(**attributes: Any) -> Callable[[], onnx.ModelProto]:
    return lambda: graph([op("Resize", "x - scales", **attributes)], {"scales": f32(1, 1, 2, 2)})


def custom() -> onnx.ModelProto:
    made = unary("Relu")()
    made.graph.node[0].op_type, made.graph.node[0].domain = "Gelu2", "my.ops"
    made.opset_import.append(helper.make_opsetid("my.ops", 1))
    return made


def constants_of(kind: str, inputs: str, constants: dict[str, Array], **more: Any) -> Callable[[], onnx.ModelProto]:
    shape = more.pop("input", _INPUT)
    types = {key: more.pop(key) for key in ("dtype", "opset") if key in more}
    return lambda: graph([op(kind, inputs, **more)], constants, input=shape, **types)


QUIET = ("no zero point", "per-channel activations", "double input", "double weights")
"""Those that the newest parser takes without a word, and the checker refuses all the same: each changes in silence."""

CORPUS: dict[str, Callable[[], onnx.ModelProto]] = {
    # -- legal ------------------------------------------------------------------------------------
    "conv": constants_of("Conv", "x w", CONV, pads=PADS),
    "depthwise": constants_of("Conv", "x w", {"w": weights(16, 1, 3, 3)}, pads=PADS, group=16),
    "transposed conv": constants_of("ConvTranspose", "x w", {"w": weights(16, 8, 2, 2)}, strides=[2, 2]),
    "relu": unary("Relu"),
    "clip": constants_of("Clip", "x lo hi", {"lo": f32(0), "hi": f32(6)}),
    "leaky relu": unary("LeakyRelu", alpha=0.05),
    "hard swish": unary("HardSwish"),
    "global pool": unary("GlobalAveragePool"),
    "max pool": unary("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    "average pool": unary("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=PADS),
    "shuffle up": unary("DepthToSpace", blocksize=2, mode="CRD"),
    "shuffle up, DCR": unary("DepthToSpace", blocksize=2, mode="DCR"),
    "option A": constants_of("Pad", "x pads", {"pads": i64(0, 8, 0, 0, 0, 8, 0, 0)}),
    "pad with the edge": constants_of("Pad", "x pads", {"pads": i64(0, 0, 1, 1, 0, 0, 1, 1)}, mode="reflect"),
    "every second": constants_of(
        "Slice", "x st en ax sp", {"st": i64(0, 0), "en": i64(99, 99), "ax": i64(2, 3), "sp": i64(2, 2)}
    ),
    "softmax": unary("Softmax", axis=1),
    "channel attention": attention,
    "nearest resize": resized(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "linear resize": resized(mode="linear", coordinate_transformation_mode="half_pixel"),
    "cubic resize": resized(mode="cubic", coordinate_transformation_mode="half_pixel"),
    "either or": if_else,
    "int8 conv": quantised(),
    "int8 conv, float bias": quantised({"b": np.zeros(16, np.float32)}, conv="xd w b"),
    "int8 conv, float weights": float_weight,
    "int8 conv, fp16 rest": half,
    "int8 residual": residual,
    "int8 concat": concatenated,
    # -- not --------------------------------------------------------------------------------------
    "int32 bias": quantised(
        {"b_q": np.zeros(16, np.int32), "bs": np.full(16, 5e-4, np.float32)},
        bias=[op("DequantizeLinear", "b_q bs", "b", axis=0)],
        conv="xd w b",
    ),
    "zero point": quantised({"z": np.int8(3)}),
    "weight zero points": quantised({"wz": np.full(16, 1, np.int8)}),
    "uint8 activations": quantised({"z": np.uint8(0)}),
    "uint8, zero point": quantised({"z": np.uint8(128)}),
    "no zero point": lambda: graph([op("QuantizeLinear", "x s", "q"), op("DequantizeLinear", "q s")], {"s": f32(0.05)}),
    "int16 activations": quantised({"z": np.int16(0)}, opset=21),
    "scale below zero": quantised({"s": f32(-0.05)}),
    "scale of zero": quantised({"s": f32(0)}),
    "weight scale of zero": quantised({"ws": np.r_[np.zeros(1), np.full(15, 0.01)].astype(np.float32)}),
    "per-channel activations": quantised({"s": np.full(16, 0.05, np.float32), "z": np.zeros(16, np.int8)}, axis=1),
    "computed scale": computed_scale,
    "dynamic quantisation": lambda: graph(
        [op("DynamicQuantizeLinear", "x", "q s z"), op("DequantizeLinear", "q s z")], {}
    ),
    "qlinear conv": lambda: graph(
        [
            op("QuantizeLinear", "x s z", "q"),
            op("QLinearConv", "q s z w ws wz s z", "c", pads=PADS),
            op("DequantizeLinear", "c s z"),
        ],
        {**GRID, "w": np.ones((16, 16, 3, 3), np.int8), "ws": f32(0.01), "wz": np.int8(0)},
    ),
    "conv integer": lambda: graph(
        [
            op("QuantizeLinear", "x s z", "q"),
            op("ConvInteger", "q w", "c", pads=PADS),
            op("Cast", "c", to=TensorProto.FLOAT),
        ],
        {**GRID, "w": np.ones((16, 16, 3, 3), np.int8)},
    ),
    "codes of bits": lambda: graph(
        [op("BitShift", "c n", "u", direction="RIGHT"), op("Cast", "u", "f", to=TensorProto.FLOAT), op("Mul", "x f")],
        {"c": np.asarray([200], np.uint8), "n": np.asarray([3], np.uint8)},
    ),
    "indices of a max pool": lambda: graph(
        [
            op("MaxPool", "x", "p i", kernel_shape=[2, 2], strides=[2, 2]),
            op("Cast", "i", "j", to=TensorProto.FLOAT),
            op("Add", "p j"),
        ],
        {},
    ),
    "antialiased resize": resized(mode="linear", coordinate_transformation_mode="half_pixel", antialias=1),
    "crop and resize": lambda: graph(
        [op("Resize", "x roi scales", mode="linear", coordinate_transformation_mode="tf_crop_and_resize")],
        {"roi": f32(0, 0, 0, 0, 1, 1, 1, 1), "scales": f32(1, 1, 2, 2)},
    ),
    "unique": lambda: graph([op("Unique", "x")], {}),
    "custom op": custom,
    "double input": constants_of("Relu", "x", {}, dtype=TensorProto.DOUBLE),
    "double weights": constants_of(
        "Conv",
        "x w",
        {"w": weights(16, 16, 3, 3).astype(np.float64)},
        pads=PADS,
        dtype=TensorProto.DOUBLE,
    ),
    "mixed types": mixed_types,
    "one-dimensional conv": constants_of("Conv", "x w", {"w": weights(16, 16, 3)}, input=("batch", 16, 8), pads=[1, 1]),
    "uint8 image": lambda: graph([op("Cast", "x", to=TensorProto.FLOAT)], {}, dtype=TensorProto.UINT8),
    "int64 arithmetic": lambda: graph(
        [
            op("Shape", "x", "n"),
            op("Slice", "n a b", "m"),
            op("Mul", "m two", "d"),
            op("Cast", "d", to=TensorProto.FLOAT),
        ],
        {"a": i64(2), "b": i64(4), "two": i64(2, 2)},
    ),
    "large int64": lambda: graph([op("Cast", "big", "f", to=TensorProto.FLOAT), op("Mul", "x f")], {"big": i64(2**40)}),
    "uint8 constant": lambda: graph(
        [op("Cast", "c", "f", to=TensorProto.FLOAT), op("Mul", "x f")], {"c": np.asarray([200], np.uint8)}
    ),
    "int16 constant": lambda: graph(
        [op("Cast", "c", "f", to=TensorProto.FLOAT), op("Mul", "x f")], {"c": np.asarray([200], np.int16)}
    ),
    "bernoulli": unary("Bernoulli"),
    "determinant": constants_of("Det", "x", {}, input=("batch", 4, 4)),
    "mod": constants_of("Mod", "x two", {"two": f32(2)}, fmod=1),
    "batch norm": constants_of(
        "BatchNormalization",
        "x g b m v",
        {
            "g": np.ones(16, np.float32),
            "b": np.zeros(16, np.float32),
            "m": np.zeros(16, np.float32),
            "v": np.ones(16, np.float32),
        },
    ),
    "matrix product": constants_of("MatMul", "x w", {"w": weights(8, 4)}),
    "classifier": constants_of(
        "Gemm", "x w b", {"w": weights(10, 16), "b": weights(10)}, input=("batch", 16), transB=1
    ),
    "einsum": constants_of("Einsum", "x w", {"w": weights(16, 4)}, equation="bchw,cd->bdhw"),
    "ellipsis": constants_of("Einsum", "x w", {"w": weights(8, 4)}, equation="...w,wd->...d"),
    "strings": lambda: graph([op("Cast", "x", "t", to=TensorProto.STRING), op("Cast", "t", to=TensorProto.FLOAT)], {}),
    "uint32 cast": lambda: graph(
        [op("Cast", "x", "t", to=TensorProto.UINT32), op("Cast", "t", to=TensorProto.FLOAT)], {}
    ),
    "compress": constants_of("Compress", "x c", {"c": np.asarray([True, False])}, axis=1),
    "lrn": unary("LRN", size=5),
    "wrapped pad": constants_of("Pad", "x pads", {"pads": i64(0, 0, 1, 1, 0, 0, 1, 1)}, mode="wrap"),
    "blocked scale": quantised(
        {
            "w_q": np.ones((16, 16, 3, 3), np.int8),
            "ws": np.full((16, 2, 3, 3), 0.01, np.float32),
            "wz": np.zeros((16, 2, 3, 3), np.int8),
        },
        opset=21,
    ),
}
