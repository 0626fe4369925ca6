"""Which operations compute with values that FP16 cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["LARGEST_HALF", "beyond_half", "mark_beyond_half"]

LARGEST_HALF = float(np.finfo(np.float16).max)
_HEADROOM = 8.0
"""How many times as large as those of the samples the values of other samples may be."""
_MARK = "compressor.float32"


def mark_beyond_half(model: ir.Model, samples: Iterable[Feeds]) -> int:
    """Mark the nodes of a float32 graph that read or make values of over an eighth of FP16's largest; return how many.

    The graph is run on each of ``samples``, what one run takes. A mark is an entry of the node's metadata, which
    stays with it in files; `beyond_half` reads it.
    """
    graph = model.graph
    weights = ((name, value.const_value) for name, value in graph.initializers.items())
    large = {name for name, tensor in weights if tensor is not None and _is_large(tensor.numpy())}
    for values in _values(ir.to_proto(model), samples):
        large |= {name for name, array in values.items() if _is_large(array)}
    marked = [node for node in graph if any(v is not None and v.name in large for v in (*node.inputs, *node.outputs))]
    for node in marked:
        node.metadata_props[_MARK] = "1"
    return len(marked)


def beyond_half(model: ir.Model) -> frozenset[str]:
    """Return the names of the nodes that are marked."""
    return frozenset(node.name or "" for node in model.graph if _MARK in node.metadata_props)


def _is_large(array: Any) -> bool:
    """Whether a finite float is too large; an infinite one stays so in every precision."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        return False
    return bool(np.abs(array[np.isfinite(array)]).max(initial=0.0) > LARGEST_HALF / _HEADROOM)


def _values(model: onnx.ModelProto, samples: Iterable[Feeds]) -> Iterator[dict[str, Any]]:
    """Yield, for each sample, the values of all tensors that the graph's nodes make, by name."""
    import onnxruntime

    held = {output.name for output in model.graph.output}
    made = {name for node in model.graph.node for name in node.output if name}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(made - held))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so nothing needs to be printed
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs, names = [i.name for i in session.get_inputs()], [output.name for output in session.get_outputs()]
    for feeds in samples:
        yield dict(zip(names, session.run(names, {name: feeds[name] for name in inputs}), strict=True))
