"""The teacher of a search: its graph, and what its students must take and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx
import onnx_ir as ir
from torch import nn

from compressor.core import Model, Signature, TensorSpec, UsageError
from compressor.lowering.export import export
from compressor.search.deployed import with_sizes

__all__ = ["student_signature", "teacher_graph", "teacher_scores"]


def teacher_graph(teacher: Model, network: nn.Module | None, opset: int) -> ir.Model:
    """Return the teacher's float graph with only the batch free, all other axes at their usual sizes.

    ``network`` is the teacher's torch network, where it has one.
    """
    usual = {axis: size for axis, size in teacher.sizes.items() if axis != teacher.signature.batch}
    if network is None:
        assert teacher.graph is not None
        return with_sizes(ir.from_proto(onnx.load(str(teacher.graph))), usual)

    def sized(spec: TensorSpec) -> TensorSpec:
        return replace(
            spec, shape=tuple(usual.get(axis, axis) if isinstance(axis, str) else axis for axis in spec.shape)
        )

    signature = teacher.signature
    fixed = Signature(tuple(map(sized, signature.inputs)), tuple(map(sized, signature.outputs)))
    return export(network, fixed, teacher.sizes, opset)


def teacher_scores(teacher: Model) -> int:
    """Return the outputs of a student: the teacher's classes or, for a network that makes images, their channels."""
    size = teacher.signature.scores.shape[1]
    assert isinstance(size, int)
    return size


def student_signature(teacher: Model) -> tuple[Signature, Mapping[str, int]]:
    """Return the signature of the teacher's students, and the usual sizes of its free axes.

    Names and sizes are the teacher's own, but the batch is free, and the one output is the teacher's scores or image.
    Raises UsageError where the teacher does not take one image as N x C x H x W.
    """
    signature = teacher.signature
    if len(signature.inputs) != 1:
        raise UsageError(
            f"students take one image, and the teacher takes {len(signature.inputs)} inputs",
            hint="compress the network itself: --profile ptq",
        )
    if teacher.normalization is not None and teacher.normalization.layout == "nhwc":
        raise UsageError(
            "students take images as N x C x H x W, and the teacher takes N x H x W x C",
            hint="give the teacher in the other layout, or compress the network itself: --profile ptq",
        )
    input, output = signature.input, signature.scores
    if signature.batch is not None:
        return Signature((input,), (output,)), teacher.sizes
    batch = "batch"
    free = [replace(spec, shape=(batch, *spec.shape[1:])) for spec in (input, output)]
    return Signature((free[0],), (free[1],)), {**teacher.sizes, batch: 1}
