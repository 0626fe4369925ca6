"""TensorRT's rules for a graph, with the verdicts of NVIDIA's own parser.

Where that parser is at hand the two are compared over a corpus of small graphs (``tests/engines``). What it cannot
judge (what older versions read, what it takes in silence for something else) stands in `BEYOND_THE_PARSER`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from compressor.legality._fault import Fault
from compressor.legality._operators import IMPORTED_SINCE, Version, opset_of, parsed

__all__ = ["BEYOND_THE_PARSER", "tensorrt_faults"]

BEYOND_THE_PARSER = frozenset(
    {"opset", "operator-age", "integer-weights", "computed-scale", "per-channel-activations", "no-zero-point", "double"}
)
"""Rules that the newest parser cannot judge: it reads what older ones do not, or says nothing of what it changes."""

_CASTS = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8,
    TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.DOUBLE,
}  # fmt: skip
_CONSTANTS = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8,
    TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT4, TensorProto.FLOAT8E4M3FN,
}  # fmt: skip
_RESIZES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def tensorrt_faults(model: onnx.ModelProto, version: str) -> list[Fault]:
    """What TensorRT ``version`` refuses of ``model``, or would change in silence; empty where all is well."""
    graph = _Graph(model, parsed(version))
    faults = [fault for rule in _RULES for fault in rule(graph)]
    if not faults:  # a type that does not fit is most often the consequence of what was found already
        faults = list(_types(graph))
    return faults


@dataclass(frozen=True, eq=False)
class _Graph:
    """A model, with the questions that rules ask."""

    model: onnx.ModelProto
    version: Version

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes, those of branches and loops too."""
        return list(_nodes(self.model.graph))

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        found = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for node in self.nodes:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.HasField("t"):
                    found[node.output[0]] = attribute.t
        return found

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output}

    @cached_property
    def read(self) -> set[str]:
        outputs = {output.name for output in self.model.graph.output}
        return {name for node in self.nodes for name in node.input} | outputs

    def array(self, name: str) -> NDArray[Any] | None:
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def pairs(self) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes if node.op_type in _PAIR)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _name(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((a for a in node.attribute if a.name == name), None)
    value = default if found is None else onnx.helper.get_attribute_value(found)
    return value.decode() if isinstance(value, bytes) else value


# -- operators ----------------------------------------------------------------------------------


def _opset(graph: _Graph) -> Iterator[Fault]:
    newest = opset_of(graph.version)
    for entry in graph.model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > newest:
            what = f"it is of ONNX opset {entry.version}; TensorRT {_said(graph.version)} reads up to {newest}"
            yield Fault("opset", "graph", what, f"set opset = {newest} or less in the target")


def _operators(graph: _Graph) -> Iterator[Fault]:
    for node in graph.nodes:
        since = IMPORTED_SINCE.get(node.op_type)
        if node.domain not in ("", "ai.onnx") or since is None:
            where = f" of {node.domain}" if node.domain not in ("", "ai.onnx") else ""
            what = f"TensorRT does not import {node.op_type}{where}"
            yield Fault("operator", _name(node), what, "write the module without it")
        elif since > graph.version:
            what = f"TensorRT imports {node.op_type} since {_said(since)}, and this is {_said(graph.version)}"
            yield Fault("operator-age", _name(node), what, "write the module without it, or update the device's system")


def _details(graph: _Graph) -> Iterator[Fault]:
    """Operators that are imported, and one of their settings is not."""
    for node in graph.nodes:
        if node.op_type in ("MaxPool", "LayerNormalization") and any(name in graph.read for name in node.output[1:]):
            what = f"TensorRT imports the first output of {node.op_type} alone"
            yield Fault("second-output", _name(node), what, "do without the indices or statistics")
        if node.op_type == "Resize" and _attribute(node, "antialias", 0):
            yield Fault("resize", _name(node), "TensorRT does not antialias", "resize without antialiasing")
        if (
            node.op_type == "Resize"
            and (way := _attribute(node, "coordinate_transformation_mode", "half_pixel")) not in _RESIZES
        ):
            yield Fault("resize", _name(node), f"TensorRT does not resize by {way}", f"take {' or '.join(_RESIZES)}")
        if node.op_type == "Cast" and (to := _attribute(node, "to", 0)) not in _CASTS:
            what = f"TensorRT does not cast to {TensorProto.DataType.Name(to)}"
            yield Fault("cast", _name(node), what, "stay in float, int32, int64 or bool")
        if node.op_type in ("AveragePool", "MaxPool", "LpPool") and any(
            d != 1 for d in _attribute(node, "dilations", [])
        ):
            yield Fault("dilated-pool", _name(node), "TensorRT's pools are not dilated", "pool without dilation")
        if node.op_type == "Pad" and _attribute(node, "mode", "constant") == "wrap" and graph.version < (10, 0):
            yield Fault("operator-age", _name(node), "TensorRT pads by wrapping since 10.0", "pad in another mode")


# -- quantisation -------------------------------------------------------------------------------


def _zero_points(graph: _Graph) -> Iterator[Fault]:
    for node in graph.pairs():
        zero = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is None:
            if node.op_type == "QuantizeLinear" and not _attribute(node, "output_dtype", 0):
                what = "without a zero point ONNX means uint8, and TensorRT int8"
                yield Fault("no-zero-point", _name(node), what, "give it an int8 zero point of 0")
        elif np.any(zero.astype(np.float32)):
            yield Fault("zero-point", _name(node), "TensorRT's grids are symmetric: its zero point is not 0", _MEND)
        elif zero.dtype == np.uint8:
            what = "TensorRT has no uint8 grids and takes it for int8, which clips half of it"
            yield Fault("unsigned", _name(node), what, _MEND)


def _pair_types(graph: _Graph) -> Iterator[Fault]:
    for node in graph.nodes:
        if node.op_type != "DequantizeLinear":
            continue
        tensor = graph.constants.get(node.input[0])
        if tensor is not None and tensor.data_type == TensorProto.INT32:
            what = "TensorRT takes no int32 constants into a DequantizeLinear, as which biases are written"
            yield Fault("integer-bias", _name(node), what, "leave the bias float")
        elif tensor is not None and tensor.data_type == TensorProto.INT8 and graph.version < (9, 0):
            what = f"TensorRT {_said(graph.version)} takes weights as floats with a QuantizeLinear, not as integers"
            yield Fault("integer-weights", _name(node), what, "quantise for this target's own version")


def _scales(graph: _Graph) -> Iterator[Fault]:
    for node in graph.pairs():
        scale = graph.array(node.input[1])
        if scale is None:
            if graph.version < (10, 0):
                what = f"TensorRT {_said(graph.version)} wants scales that are constants"
                yield Fault("computed-scale", _name(node), what, "calibrate: no dynamic quantisation")
            continue
        if not np.all(scale.astype(np.float32) > 0):
            yield Fault("scale", _name(node), "its scales are not all above 0", "calibrate on samples that vary")
        if scale.ndim > 1:
            what = "TensorRT has no INT8 scales for blocks of a tensor"
            yield Fault("blocks", _name(node), what, "one scale a tensor, or one each output channel")
        elif scale.size > 1 and not _of_weights(graph, node):
            what = "a scale for each channel is for weights: activations have one a tensor"
            yield Fault("per-channel-activations", _name(node), what, "quantise activations with one scale")


def _of_weights(graph: _Graph, node: onnx.NodeProto) -> bool:
    """Whether a pair's node works on a constant."""
    source = node.input[0]
    if source in graph.constants:
        return True
    maker = graph.makers.get(source)
    return maker is not None and maker.op_type == "QuantizeLinear" and maker.input[0] in graph.constants


# -- types ------------------------------------------------------------------------------------


def _constants(graph: _Graph) -> Iterator[Fault]:
    """Constants of a type that is not read, or that is changed; zero points are judged above."""
    zeros = {node.input[2] for node in graph.pairs() if len(node.input) > 2}
    for name, tensor in graph.constants.items():
        kind = TensorProto.DataType.Name(tensor.data_type)
        if tensor.data_type == TensorProto.UINT8 and name in zeros:
            continue
        if tensor.data_type not in _CONSTANTS:
            what = f"TensorRT has no constants of type {kind}: {name}"
            yield Fault("constant-type", _user(graph, name), what, "store it as float, int32 or int64")
        elif tensor.data_type == TensorProto.DOUBLE:
            what = f"TensorRT computes in float what {name} is as double"
            yield Fault("double", _user(graph, name), what, "convert the module to float: module.float()")


def _inputs(graph: _Graph) -> Iterator[Fault]:
    known = {tensor.name for tensor in graph.model.graph.initializer}
    for value in graph.model.graph.input:
        kind = value.type.tensor_type.elem_type
        if value.name in known:
            continue
        if kind == TensorProto.DOUBLE:
            what = f"TensorRT takes the input {value.name} as float, and it is double"
            yield Fault("double", "graph", what, "convert the module to float: module.float()")
        elif kind not in _CASTS:
            what = f"TensorRT has no inputs of type {TensorProto.DataType.Name(kind)}: {value.name}"
            yield Fault("input-type", "graph", what, "give it float32")


def _types(graph: _Graph) -> Iterator[Fault]:
    """ONNX's own rules of types and shapes."""
    try:
        onnx.shape_inference.infer_shapes(graph.model, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        reason = str(error).strip().splitlines()[-1]
        yield Fault("types", "graph", f"its types or shapes do not fit: {reason}", "export it anew, and check it")


def _user(graph: _Graph, name: str) -> str:
    return next((_name(node) for node in graph.nodes if name in node.input), "graph")


def _said(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


_MEND = "quantise for this target: symmetric int8"
_RULES: tuple[Callable[[_Graph], Iterator[Fault]], ...] = (
    _opset,
    _operators,
    _details,
    _zero_points,
    _pair_types,
    _scales,
    _constants,
    _inputs,
)
