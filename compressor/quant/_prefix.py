"""The first layers of a graph, run by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime

    from compressor.core.signature import Feeds

__all__ = ["PrefixRuns"]


class PrefixRuns:
    """Runs a graph, and what has become of it, up to one of their tensors."""

    def __init__(self, plain: ir.Model, batches: Sequence[Feeds]) -> None:
        self._plain = plain
        self._batches = batches

    def pairs(self, graph: ir.Model, name: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield the tensor ``name`` of ``graph`` and of the plain one, batch by batch."""
        if name in {value.name for value in graph.graph.inputs}:
            for feeds in self._batches:
                yield np.asarray(feeds[name]), np.asarray(feeds[name])
            return
        changed, plain = (_session(model, name) for model in (graph, self._plain))
        for feeds in self._batches:
            yield _read(changed, feeds), _read(plain, feeds)


def _session(model: ir.Model, name: str) -> onnxruntime.InferenceSession:
    """Load what ``name`` is made from."""
    import onnxruntime

    model = model.clone()
    model.graph.outputs[:] = [value for node in model.graph for value in node.outputs if value.name == name]
    common.RemoveUnusedNodesPass()(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so nothing needs to be printed
    proto = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


def _read(session: onnxruntime.InferenceSession, feeds: Feeds) -> NDArray[np.float32]:
    wanted = {each.name for each in session.get_inputs()}
    (made,) = session.run(None, {name: array for name, array in feeds.items() if name in wanted})
    values: NDArray[np.float32] = np.asarray(made, np.float32)
    return values
