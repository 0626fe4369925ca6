"""Weights stored as indices into a table, for kernels that compute in float: unpacked when the file is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray
from torch import Tensor

from compressor.lowering.graph import add_constant
from compressor.lowering.packing import unpacking_nodes
from compressor.quant.bucket_quantizer import BucketQuantizer, quantize_channels
from compressor.quant.codebook import Codebook

__all__ = ["IndexedWeight", "index_weight", "store_indexed"]


@dataclass(frozen=True)
class IndexedWeight:
    """A weight as ``table[indices] * scale + low``, bucket by bucket, in the order of its elements."""

    indices: NDArray[np.int64]
    """Buckets x weights; what fills up the last bucket is cut off."""
    table: NDArray[np.float32]
    scale: NDArray[np.float32]
    """Buckets x 1, as ``low``."""
    low: NDArray[np.float32] | None

    def weight(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the float weight of ``shape``."""
        rows = self.table[self.indices] * self.scale
        rows = rows if self.low is None else rows + self.low
        return rows.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def index_weight(weight: Tensor, bits: int, bucket_size: int | None, codebook: Codebook | None = None) -> IndexedWeight:
    """Quantise a weight to the points of ``codebook``, or, where that is None, uniformly to ``bits``.

    Uniform levels are affine in buckets (Polino et al. 2018, section 2), symmetric in output channels
    (``bucket_size`` None).
    """
    if codebook is not None:
        assigned, points = codebook.assign(weight)
        least = None if bucket_size is None else _array(codebook.low)
        return IndexedWeight(_array(assigned).astype(np.int64), _array(points), _array(codebook.scale), least)
    if bucket_size is None:
        signed, steps = quantize_channels(weight, bits)
        top = 2 ** (bits - 1) - 1
        table = np.arange(-top, top + 1, dtype=np.float32)
        return IndexedWeight(_array(signed).astype(np.int64) + top, table, _array(steps), None)
    integers, scale, low = BucketQuantizer(bits, bucket_size).quantize(weight)
    top = 2**bits - 1
    table = (np.arange(top + 1) / top).astype(np.float32)
    return IndexedWeight(_array(integers).astype(np.int64), table, _array(scale), _array(low))


def store_indexed(
    model: ir.Model, weights: Mapping[str, IndexedWeight], exported: Mapping[str, NDArray[np.float32]]
) -> dict[str, int]:
    """Replace the named constants of ``model`` by indexed weights; change it in place.

    ``exported`` are the weights as the exporter was given them. Where it folded a normalisation into one, the
    constant's channels are multiples of that, and the factors are stored too. All added nodes work on constants, so
    the runtime computes them once, at load. Returns the bits of each weight's indices.
    """
    bits: dict[str, int] = {}
    for number, (name, each) in enumerate(weights.items()):
        bits[name] = max(1, (len(each.table) - 1).bit_length())
        _replace_constant(model.graph, name, f"w{number}", each, exported[name], bits[name])
    common.DeduplicateInitializersPass()(model)
    return bits


def _replace_constant(
    graph: ir.Graph, name: str, short: str, indexed: IndexedWeight, exported: NDArray[np.float32], bits: int
) -> None:
    """Replace the constant ``name`` by nodes that compute it; names of what is added begin with ``short``."""
    value = graph.initializers[name]
    assert value.const_value is not None
    folded = value.const_value.numpy().astype(np.float32)
    factor = _channel_factors(folded, exported)
    nodes = unpacking_nodes(graph, short, indexed.indices, bits)
    nodes.append(ir.node("Gather", [add_constant(graph, f"{short}.l", indexed.table), nodes[-1].outputs[0]]))

    def append(op: str, suffix: str, array: NDArray[np.generic]) -> None:
        constant = add_constant(graph, f"{short}.{suffix}", array)
        nodes.append(ir.node(op, [nodes[-1].outputs[0], constant]))

    shape = np.asarray(folded.shape, np.int64)
    if indexed.low is None:  # a bucket is a channel: one factor does for both
        append("Mul", "s", indexed.scale * factor.reshape(-1, 1))
        append("Reshape", "r", shape)
    else:
        append("Mul", "s", indexed.scale)
        append("Add", "b", indexed.low)
        if indexed.indices.size != folded.size:
            append("Reshape", "f", np.full(1, -1, np.int64))
            ends = [add_constant(graph, f"{short}.e{end}", np.full(1, end, np.int64)) for end in (0, folded.size)]
            nodes.append(ir.node("Slice", [nodes[-1].outputs[0], *ends]))
        append("Reshape", "r", shape)
        if not np.array_equal(factor, np.ones_like(factor)):
            append("Mul", "m", factor.reshape(-1, *[1] * (folded.ndim - 1)))
    for number, node in enumerate(nodes):
        node.outputs[0].name = f"{short}.{number}"
    made = nodes[-1].outputs[0]
    made.name, made.shape, made.dtype = f"{name}_unpacked", value.shape, ir.DataType.FLOAT
    graph.insert_before(graph[0], nodes)
    ir.convenience.replace_all_uses_with(value, made)
    del graph.initializers[name]


def _channel_factors(folded: NDArray[np.float32], exported: NDArray[np.float32]) -> NDArray[np.float32]:
    """The factor of each output channel by which ``folded`` differs from ``exported``; 1 where they are equal."""
    before, after = (each.reshape(len(each), -1).astype(np.float64) for each in (exported, folded))
    norm = (before**2).sum(1)
    factor = np.divide((before * after).sum(1), norm, out=np.ones_like(norm), where=norm > 0)
    return np.where(np.abs(factor - 1) < 1e-6, 1.0, factor).astype(np.float32)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.detach().cpu().numpy()
    return found
