"""Channels of normalised tensors brought to like ranges, by factors that the next layers' weights take up.

SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, section 4): behind a layer normalisation some channels are far larger
than others, and one scale for all rounds those away. A channel is divided by a factor in the normalisation's own scale
and bias, and the rows of the matrices that read it are multiplied. What the graph computes stays.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["Smoothing"]

_LEAST = 1e-5
"""The least magnitude of a channel, relative to the largest: smaller ones are zero, or nearly so."""


class Smoothing:
    """The normalised tensors of a graph that only products with constant matrices read, and their smoothing.

    ``tensors`` are those whose largest magnitudes `scale` wants, a value for each channel of the last axis.
    """

    def __init__(self, model: ir.Model) -> None:
        self._readers: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            if _scales_channels(node) and not node.outputs[0].is_graph_output():
                readers = [use.node for use in node.outputs[0].uses()]
                if readers and all(_multiplies(reader, node.outputs[0]) for reader in readers):
                    self._readers[node.outputs[0]] = readers

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(value.name or "" for value in self._readers)

    def scale(self, largest: Mapping[str, NDArray[np.float64]], share: float) -> int:
        """Scale the graph in place; return how many tensors were.

        ``share`` is the part of the difference between channels that moves into the weights (the paper's alpha):
        the factors are ``max|x| ** share / max|w| ** (1 - share)`` (equation 4).
        """
        for value, readers in self._readers.items():
            norm = value.producer()
            assert norm is not None
            rows = np.max([np.abs(_rows(reader)).max(axis=1) for reader in readers], axis=0)
            factors = _floored(largest[value.name or ""]) ** share / _floored(rows) ** (1 - share)
            factors /= np.exp(np.log(factors).mean())
            for index in range(1, len(norm.inputs)):
                _set(norm, index, _array(norm, index) / factors)
            for reader in readers:
                scaled = _rows(reader) * factors[:, None]
                _set(reader, 1, scaled.T if _transposed(reader) else scaled)
        return len(self._readers)


def _scales_channels(node: ir.Node) -> bool:
    """Whether a node is a normalisation of the last axis with a scale, and perhaps a bias, of its own."""
    if node.op_type != "LayerNormalization" or not _own(node, *range(1, len(node.inputs))):
        return False
    return all(_array(node, index).ndim == 1 for index in range(1, len(node.inputs)))


def _own(node: ir.Node, *indices: int) -> bool:
    """Whether these inputs, where there are any, are constants that nothing else reads."""
    values = [node.inputs[index] for index in indices if index < len(node.inputs)]
    return bool(values) and all(v is not None and v.is_initializer() and len(v.uses()) == 1 for v in values)


def _multiplies(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node multiplies ``value`` with a constant matrix of its own, its last axis with the rows."""
    if node.op_type not in ("MatMul", "Gemm") or node.inputs[0] is not value or not _own(node, 1):
        return False
    return _array(node, 1).ndim == 2 and not node.attributes.get_int("transA", 0)


def _transposed(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("transB", 0))


def _rows(node: ir.Node) -> NDArray[np.float64]:
    """The matrix of a product, a row for each channel that it reads."""
    matrix = _array(node, 1)
    return matrix.T if _transposed(node) else matrix


def _array(node: ir.Node, index: int) -> NDArray[np.float64]:
    value = node.inputs[index]
    assert value is not None
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


def _set(node: ir.Node, index: int, values: NDArray[np.float64]) -> None:
    value = node.inputs[index]
    assert value is not None
    value.const_value = ir.tensor(np.ascontiguousarray(values.astype(np.float32)), name=value.name)


def _floored(magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    least = max(float(magnitudes.max()) * _LEAST, float(np.finfo(np.float32).tiny))
    return np.clip(magnitudes, least, None)
