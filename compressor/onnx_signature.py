"""The signature of an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.core import Signature, TensorSpec, UsageError, axis_name

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

__all__ = ["onnx_signature"]


def onnx_signature(model: ModelProto) -> Signature:
    """Return the graph's inputs (but those that are only defaults of weights) and outputs, in its own order.

    A free axis keeps the graph's name for it; one without a name is named after its tensor and position, and in front
    of every input ``batch``. Raises UsageError where an input or output is no tensor of known type and rank.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    nameless = bool(values) and all(_is_nameless_in_front(value) for value in values)
    inputs = tuple(_spec(value, nameless) for value in values)
    return Signature(inputs, tuple(_spec(value, nameless, output=True) for value in model.graph.output))


def _is_nameless_in_front(value: ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return bool(dims) and not dims[0].dim_param and dims[0].dim_value < 1


def _spec(value: ValueInfoProto, nameless: bool, *, output: bool = False) -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    known = value.type.HasField("tensor_type") and kind.elem_type
    if not known or not (kind.HasField("shape") or output):
        raise UsageError(
            f"{value.name} is no tensor whose type and rank are known", hint="export the network with known shapes"
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    shape: list[int | str] = []
    for axis, dim in enumerate(kind.shape.dim):
        name = "batch" if axis == 0 and nameless else f"{value.name}_{axis}"
        shape.append(dim.dim_value if dim.dim_value > 0 else axis_name(dim.dim_param or name))
    return TensorSpec(value.name, str(dtype), tuple(shape))
