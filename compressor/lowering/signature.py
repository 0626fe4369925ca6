"""The signature of a graph."""

from __future__ import annotations

import onnx_ir as ir

from compressor.core import Signature, TensorSpec, UsageError

__all__ = ["signature_of"]


def signature_of(model: ir.Model) -> Signature:
    """Read inputs and outputs of a cleaned graph. Raises UsageError where one has no tensor type or no rank."""
    graph = model.graph
    return Signature(tuple(map(_spec, graph.inputs)), tuple(map(_spec, graph.outputs)))


def _spec(value: ir.Value) -> TensorSpec:
    name = value.name or ""
    if value.dtype is None or value.shape is None:
        raise UsageError(
            f"{name} of the ONNX graph has no known {'type' if value.dtype is None else 'shape'}",
            hint="run onnx.shape_inference on the file, or export it again",
        )
    shape = tuple(d if isinstance(d, int) else d.value or f"{name}_axis{i}" for i, d in enumerate(value.shape))
    return TensorSpec(name, str(value.dtype.numpy()), shape)
