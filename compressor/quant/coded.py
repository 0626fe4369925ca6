"""Weights as codes for kernels that compute in floats: unfolded when the runtime loads the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray
from torch import Tensor

from compressor.quant.buckets import Buckets, symmetric
from compressor.quant.codebook import Codebook
from compressor.lowering.packing import unfold

__all__ = ["Coded", "code", "coded"]


@dataclass(frozen=True)
class Coded:
    """A weight: ``levels[codes] * scale + low``, bucket by bucket, in the order of its elements."""

    codes: NDArray[np.int64]
    """Buckets x weights; the last bucket's surplus is cut off."""
    levels: NDArray[np.float32]
    scale: NDArray[np.float32]
    """Buckets x 1, as ``low``."""
    low: NDArray[np.float32] | None

    def weight(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The weight that the codes stand for."""
        rows = self.levels[self.codes] * self.scale
        rows = rows if self.low is None else rows + self.low
        return rows.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def coded(weight: Tensor, bits: int, bucket: int | None, book: Codebook | None = None) -> Coded:
    """The codes of a weight on a grid of ``bits`` in each bucket, or by the learned points of ``book``.

    A uniform grid is affine in buckets (Polino et al. 2018, section 2), symmetric in output channels
    (``bucket`` None).
    """
    if book is not None:
        numbers, points = book.codes(weight)
        least = None if bucket is None else _array(book.low)
        return Coded(_array(numbers).astype(np.int64), _array(points), _array(book.scale), least)
    if bucket is None:
        integers, steps = symmetric(weight, bits)
        top = 2 ** (bits - 1) - 1
        levels = np.arange(-top, top + 1, dtype=np.float32)
        return Coded(_array(integers).astype(np.int64) + top, levels, _array(steps), None)
    codes, scale, low = Buckets(bits, bucket).codes(weight)
    top = 2**bits - 1
    levels = (np.arange(top + 1) / top).astype(np.float32)
    return Coded(_array(codes).astype(np.int64), levels, _array(scale), _array(low))


def code(model: ir.Model, weights: Mapping[str, Coded], exported: Mapping[str, NDArray[np.float32]]) -> dict[str, int]:
    """Store the named constants of ``model`` as codes; change it in place.

    ``exported`` are the weights as the exporter was given them. Where it folded a norm into one, the constant's
    channels are multiples of that: the factors go along. All of it is constant, so the runtime computes it once,
    at load. Returns each weight's bits a code.
    """
    graph = model.graph
    bits: dict[str, int] = {}
    for number, (name, each) in enumerate(weights.items()):
        value = graph.initializers[name]
        assert value.const_value is not None
        folded = value.const_value.numpy().astype(np.float32)
        factor = _factors(folded, exported[name])
        bits[name] = max(1, (len(each.levels) - 1).bit_length())
        short = f"w{number}"
        nodes = unfold(graph, short, each.codes, bits[name])
        nodes.append(ir.node("Gather", [_constant(graph, f"{short}.l", each.levels), nodes[-1].outputs[0]]))
        if each.low is None:  # a bucket is a channel: one factor does for both
            nodes.append(_with(graph, "Mul", nodes, f"{short}.s", each.scale * factor.reshape(-1, 1)))
            nodes.append(_with(graph, "Reshape", nodes, f"{short}.r", np.asarray(folded.shape, np.int64)))
        else:
            nodes.append(_with(graph, "Mul", nodes, f"{short}.s", each.scale))
            nodes.append(_with(graph, "Add", nodes, f"{short}.b", each.low))
            if each.codes.size != folded.size:
                nodes.append(_with(graph, "Reshape", nodes, f"{short}.f", np.full(1, -1, np.int64)))
                ends = [_constant(graph, f"{short}.e{end}", np.full(1, end, np.int64)) for end in (0, folded.size)]
                nodes.append(ir.node("Slice", [nodes[-1].outputs[0], *ends]))
            nodes.append(_with(graph, "Reshape", nodes, f"{short}.r", np.asarray(folded.shape, np.int64)))
            if not np.array_equal(factor, np.ones_like(factor)):
                column = factor.reshape(-1, *[1] * (folded.ndim - 1))
                nodes.append(_with(graph, "Mul", nodes, f"{short}.m", column))
        for place, node in enumerate(nodes):
            node.outputs[0].name = f"{short}.{place}"
        made = nodes[-1].outputs[0]
        made.name, made.shape, made.dtype = f"{name}_unpacked", value.shape, ir.DataType.FLOAT
        graph.insert_before(graph[0], nodes)
        ir.convenience.replace_all_uses_with(value, made)
        del graph.initializers[name]
    common.DeduplicateInitializersPass()(model)
    return bits


def _factors(folded: NDArray[np.float32], exported: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each output channel, what it was multiplied by."""
    ours, theirs = (each.reshape(len(each), -1).astype(np.float64) for each in (exported, folded))
    norm = (ours**2).sum(1)
    factor = np.divide((ours * theirs).sum(1), norm, out=np.ones_like(norm), where=norm > 0)
    return np.where(np.abs(factor - 1) < 1e-6, 1.0, factor).astype(np.float32)


def _with(graph: ir.Graph, op: str, before: list[ir.Node], name: str, array: NDArray[np.generic]) -> ir.Node:
    """``op`` of what the last node gives and a constant."""
    return ir.node(op, [before[-1].outputs[0], _constant(graph, name, array)])


def _constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def _array(tensor: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.detach().cpu().numpy()
    return found
