"""Bounds on a graph's outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["clip_output"]

_FLOAT = ir.TensorType(ir.DataType.FLOAT)


def clip_output(model: ir.Model, bounds: tuple[float, float]) -> ir.Model:
    """Keep the first output within ``bounds``, as a screen or 8 bits would an image. Changes ``model``."""
    graph = model.graph
    output = graph.outputs[0]
    ends = []
    for name, bound in zip(("darkest", "brightest"), bounds, strict=True):
        tensor = ir.tensor(np.asarray(bound, np.float32), name=name)
        ends.append(ir.Value(name=name, const_value=tensor, shape=ir.Shape([]), type=_FLOAT))
        graph.register_initializer(ends[-1])
    clip = ir.node("Clip", [output, *ends], name=f"Clip_{len(graph)}")
    made = clip.outputs[0]
    made.shape, made.type = output.shape, output.type
    made.name, output.name = output.name, f"{output.name}_unbounded"
    graph.append(clip)
    graph.outputs[0] = made
    return model
