"""The free axes of an ONNX graph's inputs and outputs, by names that tell which are the same size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from compressor.core import axis_name

__all__ = ["NameInputAxes", "NameOutputAxes"]

_MADE_UP = re.compile(r"|\?|-?\d+|none|unk_*\d*|unknown\w*|p2o\.\w+\.\d+|dynamic_axes_\d+|\w*_dynamic_axes_\d+", re.I)
"""Names of axes that an exporter wrote where it had none: two axes of one such name may differ in size."""


class NameInputAxes(ir.passes.InPlacePass):
    """Name the free axes of inputs: ``batch`` the first of them all, others as they were, or by input and number.

    The first axes are a batch where every input's is free, and none of two names that tell them apart.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        inputs = [value for value in model.graph.inputs if value.shape is not None]
        first = {_given(value, 0) for value in inputs if value.shape}
        named = {name for name in first if name}
        batch = None not in first and len(named) <= 1 and all(value.shape for value in model.graph.inputs)
        for value in inputs:
            assert value.shape is not None
            sizes: list[int | str] = []
            for axis, size in enumerate(value.shape):
                if (name := _given(value, axis)) is None:
                    sizes.append(int(size))  # type: ignore[arg-type]
                elif axis == 0 and batch:
                    sizes.append("batch")
                else:
                    sizes.append(axis_name(name) if name else f"{axis_name(value.name or 'input')}_axis{axis}")
            value.shape = ir.Shape(sizes)
        return ir.passes.PassResult(model, True)


def _given(value: ir.Value, axis: int) -> str | None:
    """The name of a free axis, empty where it has none of its own; None where the axis is fixed."""
    assert value.shape is not None
    size = value.shape[axis]
    if isinstance(size, int):
        return None if size > 0 else ""
    return "" if size.value is None or _MADE_UP.fullmatch(size.value) else size.value


class NameOutputAxes(ir.passes.InPlacePass):
    """Say the shape of each output: sizes, the free axes of inputs, multiples of them, and names of its own.

    Found by inferring shapes for two sets of sizes of the inputs. Where that finds none, what the file said is kept.
    """

    def __init__(self, declared: onnx.GraphProto) -> None:
        self.declared = {value.name: _sizes(value) for value in declared.output}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        free = list(dict.fromkeys(
            size.value for value in model.graph.inputs if value.shape is not None
            for size in value.shape if not isinstance(size, int) and size.value is not None
        ))  # fmt: skip
        proto = _without_shapes(ir.to_proto(model))
        # Multiples of 64 suit networks that halve their input and double it again; batches are small, and not 1.
        tries: list[dict[str, int]] = [
            {name: step if name == "batch" else 64 * (step + 2 * place) for place, name in enumerate(free)}
            for step in ((3, 5) if free else (3,))
        ]
        found = [_inferred(proto, sizes) for sizes in tries]
        for value in model.graph.outputs:
            name = value.name or ""
            shapes, declared = [shapes.get(name) for shapes in found], self.declared.get(name)
            rank = next((len(shape) for shape in (*shapes, declared) if shape is not None), None)
            if rank is not None:
                known = [shape if shape is not None and len(shape) == rank else [None] * rank for shape in shapes]
                said = declared if declared is not None and len(declared) == rank else [None] * rank
                value.shape = ir.Shape(
                    _axis([shape[axis] for shape in known], tries, said[axis], f"{axis_name(name)}_axis{axis}")
                    for axis in range(rank)
                )
        return ir.passes.PassResult(model, True)


def _axis(sizes: Sequence[int | None], tries: Sequence[Mapping[str, int]], declared: int | None, own: str) -> int | str:
    """The size of an axis that has ``sizes`` where the free axes of inputs have those of ``tries``."""
    if None in sizes:
        return own if declared is None else declared
    known = [size for size in sizes if size is not None]
    if len(set(known)) == 1:
        return known[0]
    for name in tries[0]:
        times, rest = divmod(known[0], tries[0][name])
        if not rest and all(size == times * sizes[name] for size, sizes in zip(known, tries, strict=True)):
            return name if times == 1 else f"{times}*{name}"
    return own


def _sizes(value: onnx.ValueInfoProto) -> list[int | None] | None:
    kind = value.type.tensor_type
    return (
        [axis.dim_value if axis.dim_value > 0 else None for axis in kind.shape.dim] if kind.HasField("shape") else None
    )


def _without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, saying nothing of the shapes of computed values."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


def _inferred(model: onnx.ModelProto, free: Mapping[str, int]) -> dict[str, list[int | None]]:
    """The shape of each output where the free axes of inputs have these sizes; without those that are not found."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = free[axis.dim_param]
    try:
        graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    sizes = {value.name: _sizes(value) for value in graph.output}
    return {name: shape for name, shape in sizes.items() if shape is not None}
