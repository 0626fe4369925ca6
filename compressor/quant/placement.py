"""Where QuantizeLinear and DequantizeLinear go: one algorithm, and a rules table for each runtime.

The rules (`compressor.core.QdqRules`) come from the target's backend. The algorithm:

1. Tensors that an op only *moves* (Slice, Reshape, MaxPool …) share one grid: they form a group.
2. A group is quantised where an integer op reads it; or writes it, if the rules quantise outputs. Statistics
   (how far a map is from its own mean, as a contrast-aware attention asks) are no integer op's.
3. A group is quantised once, at its source; ops that only move it work on the integers, and every
   other reader gets it through a DequantizeLinear; but what is left in float reads what is made in float as it is.
4. A Relu or Clip before a QuantizeLinear is dropped where the integers' own range clamps as it does.
5. Weights become int8 initialisers, symmetric, one scale each output channel or each tensor.

A runtime that works out by itself which ops may run on integers (TensorRT) wants the pairs at the
integer ops' own inputs, and nowhere else: what moves then keeps its grid and is left in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from compressor.core import QdqRules

__all__ = ["Placement", "projected"]

_ACTIVATIONS = frozenset({"Relu", "Clip"})
_MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_BOUNDS = {"uint8": (0, 255), "int8": (-128, 127)}
_TINY = np.finfo(np.float32).tiny
"""Kernels flush to zero, or divide by it, below this."""
_LEAST_HALF = np.float32(2.0**-20)
"""The least scale in half precision: below it a subnormal has fewer than four bits left."""


class Placement:
    """The plan for one float graph, then the rewriting itself.

    Two steps, because the ranges of ``tensors`` are gathered in between::

        placement = Placement(model, rules)
        placement.apply(activation_ranges(model, placement.tensors, ...))
    """

    def __init__(self, model: ir.Model, rules: QdqRules, floats: frozenset[str] = frozenset()) -> None:
        """``floats`` are the names of nodes that stay in float, whatever the rules say."""
        common.ShapeInferencePass()(model)  # integer arithmetic on shapes is told from float by its type
        self._model = model
        self._rules = rules
        self._floats = floats
        read, written = self._ends()
        joined = [
            node
            for node in model.graph
            if node.op_type in rules.shared_scale_ops
            and node.outputs[0] in read
            and node.name not in floats
            and _is_integer_op(node)
        ]
        for node in joined:
            read.update(_variables(node))
        self._groups = _Groups(model.graph, rules.passthrough_ops, joined)
        self._quantised = self._choose(read, written)
        self._places = {
            value
            for value in _activations(model.graph)
            if self._groups.of(value) in self._quantised and (rules.passthrough_in_integers or value in read)
        }

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors whose ranges `apply` wants."""
        return tuple(v.name or "" for v in _activations(self._model.graph) if v in self._places)

    @property
    def grids(self) -> tuple[tuple[str, ...], ...]:
        """The names of the tensors that are quantised as one, the first of them where it is done.

        As many as there are grids; where what moves stays in float, as there are pairs.
        """
        if not self._rules.passthrough_in_integers:
            return tuple((name,) for name in self.tensors)
        return tuple(tuple(m.name or "" for m in self._groups.members(group)) for group in self._quantised)

    def apply(
        self,
        ranges: Mapping[str, tuple[float, float]],
        bits: Mapping[str, int] | None = None,
        shapes: Mapping[str, NDArray[np.float32]] | None = None,
        means: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        """Rewrite the model in place. A float tensor ``x`` lives on as ``x_dequantized`` where it is read.

        ``bits`` are of single weights, by name, that have fewer than the rules' own. ``shapes`` are weights
        that were learned from few values: those values, each channel (or tensor) of the weight being a
        multiple of its own; they keep to as many levels. ``means`` are of tensors, one a channel: where a
        convolution reads one of those, what rounding its weights adds to its outputs on average is taken off
        its bias (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
        """
        graph = self._model.graph
        grids = {group: self._grid(group, ranges) for group in self._quantised}
        scales = self._quantise_weights(grids, bits or {}, shapes or {}, means or {})
        self._quantise_biases(grids, scales)
        integers: dict[ir.Value, ir.Value] = {}
        for value in list(_activations(graph)):
            grid = grids.get(self._groups.of(value))
            if grid is not None and value in self._places and value not in integers:
                integers |= self._integers(value, grid, integers)
        for value, integer in integers.items():
            self._dequantise(value, integer, grids[self._groups.of(value)])
        common.RemoveUnusedNodesPass()(self._model)
        common.DeduplicateInitializersPass()(self._model)
        for number, node in enumerate(graph):
            node.name = f"{node.op_type}_{number}"

    # -- which tensors --------------------------------------------------------------------------

    def _ends(self) -> tuple[set[ir.Value], set[ir.Value]]:
        """The tensors that an integer op reads, and those that one writes in integers."""
        rules = self._rules
        read: set[ir.Value] = set()
        written: set[ir.Value] = set()
        exact = _statistics(self._model.graph)
        for node in self._model.graph:
            if node.op_type in rules.skip_branch:
                read.update(self._skip(node))
            elif self._in_integers(node) and node not in exact:
                read.update(_variables(node))
                if node.op_type in rules.quantize_outputs:
                    written.add(_after_activation(node.outputs[0]))
        return read, written

    def _in_integers(self, node: ir.Node) -> bool:
        """Whether this op computes in integers: it may, can, and is worth it."""
        return node.name not in self._floats and self._able(node)

    def _able(self, node: ir.Node) -> bool:
        rules = self._rules
        if node.op_type not in rules.quantizable_ops or not _is_integer_op(node):
            return False
        if node.op_type in ("Conv", "ConvTranspose"):
            return not _thin(node, rules.min_channels)
        return rules.quantize_gemv or not _single_row(node)

    def _skip(self, node: ir.Node) -> list[ir.Value]:
        """Of a sum that a convolution's kernel does in passing: the other branch.

        Where both come from convolutions the later one does it.
        """
        branches = _variables(node)
        if len(branches) != 2 or branches[0] is branches[1] or not _is_integer_op(node):
            return []
        order = {each: number for number, each in enumerate(self._model.graph)}
        makers = [(order[made], i, made) for i, v in enumerate(branches) if (made := self._fused(v)) is not None]
        if not makers:
            return []
        _, branch, does_it = max(makers, key=lambda maker: maker[:2])
        return [branches[1 - branch]] if {node.name, does_it.name}.isdisjoint(self._floats) else []

    def _fused(self, value: ir.Value) -> ir.Node | None:
        """The op that can run in integers and alone gives ``value`` to its one reader."""
        made = value.producer()
        alone = made is not None and len(value.uses()) == 1 and not value.is_graph_output()
        return made if made is not None and alone and made.op_type in _WEIGHTED and self._able(made) else None

    def _choose(self, read: set[ir.Value], written: set[ir.Value]) -> tuple[ir.Value, ...]:
        """The groups to quantise, in the graph's order: the same graph always gives the same file."""
        of = self._groups.of
        ends = {of(v) for v in written}
        if self._rules.keep_float_outputs:
            ends -= {of(v) for v in self._model.graph.outputs}
        chosen = {of(v) for v in read} | ends
        return tuple(group for group in self._groups if group in chosen)

    def _grid(self, group: ir.Value, ranges: Mapping[str, tuple[float, float]]) -> _Grid:
        """One grid for a group: it spans the ranges of all its members, and holds zero exactly."""
        members = [ranges[v.name or ""] for v in self._groups.members(group) if v in self._places]
        low, high = min(0.0, *(r[0] for r in members)), max(0.0, *(r[1] for r in members))
        bottom, top = _BOUNDS[self._rules.activation_dtype]
        middle = (bottom + top + 1) // 2
        if self._rules.symmetric_activations:
            scale, zero = self._storable(np.float32(max(-low, high) / (top - middle))), middle
        else:
            scale = np.float32((high - low) / (top - bottom))
            zero = int(np.clip(np.rint(bottom - low / scale), bottom, top)) if scale >= _TINY else middle
        if not scale >= _TINY:  # a tensor that is zero throughout: any scale holds it
            scale = np.float32(1)
        zero_point = np.asarray(zero, np.dtype(self._rules.activation_dtype))
        return _Grid(
            self._constant(f"{group.name}_scale", np.asarray(scale)),
            self._constant(f"{group.name}_zero_point", zero_point),
            float(scale),
            float(scale) * (bottom - zero),
            float(scale) * (top - zero),
        )

    # -- rewriting ------------------------------------------------------------------------------

    def _integers(self, value: ir.Value, grid: _Grid, known: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
        """Make the integers of ``value``; of all its producer's outputs, where that only moves them."""
        graph, producer = self._model.graph, value.producer()
        moves = self._rules.passthrough_in_integers and producer is not None and _only_moves(producer, self._rules.passthrough_ops)
        if producer is not None and moves and (before := producer.inputs[0]) is not None and before in known:
            inputs = [known[before], *producer.inputs[1:]]
            if producer.op_type == "Pad":  # zero, as an integer, is the zero point
                inputs = [inputs[0], inputs[1], grid.zero_point, *inputs[3:]]
            moved = ir.node(producer.op_type, inputs, producer.attributes, num_outputs=len(producer.outputs))
            graph.insert_after(producer, moved)
            for old, new in zip(producer.outputs, moved.outputs, strict=True):
                self._describe(new, f"{old.name}_quantized", old.shape, grid.zero_point.dtype)
            return dict(zip(producer.outputs, moved.outputs, strict=True))
        source = value
        if producer is not None and self._rules.fold_activations and _clamps(producer, grid):
            assert producer.inputs[0] is not None
            source = producer.inputs[0]
        quantise = ir.node("QuantizeLinear", [source, grid.scale, grid.zero_point])
        self._describe(quantise.outputs[0], f"{value.name}_quantized", value.shape, grid.zero_point.dtype)
        if producer is None:
            graph.insert_before(graph[0], quantise)
        else:
            graph.insert_after(producer, quantise)
        return {value: quantise.outputs[0]}

    def _dequantise(self, value: ir.Value, integer: ir.Value, grid: _Grid) -> None:
        """Give the readers of the float ``value`` its dequantised twin."""
        graph, maker, producer = self._model.graph, integer.producer(), value.producer()
        assert maker is not None
        exact = self._floats if producer is not None and producer.name in self._floats else frozenset()
        readers = [use for use in value.uses() if use.node is not maker and use.node.name not in exact]
        if not readers and not value.is_graph_output():
            return
        dequantise = ir.node("DequantizeLinear", [integer, grid.scale, grid.zero_point])
        twin = dequantise.outputs[0]
        self._describe(twin, f"{value.name}_dequantized", value.shape, ir.DataType.FLOAT)
        graph.insert_after(maker, dequantise)
        for use in readers:
            use.node.replace_input_with(use.idx, twin)
        for index, output in enumerate(graph.outputs):
            if output is value:
                twin.name, value.name = value.name, f"{value.name}_unquantized"
                graph.outputs[index] = twin

    def _quantise_weights(
        self,
        grids: Mapping[ir.Value, _Grid],
        bits: Mapping[str, int],
        shapes: Mapping[str, NDArray[np.float32]],
        means: Mapping[str, NDArray[np.float64]],
    ) -> dict[ir.Node, NDArray[np.float32]]:
        """Replace constant weights by int8 initialisers. Returns each node's weight scale(s).

        Symmetric: the largest magnitude of each channel (or tensor) is mapped onto 2^(b-1) - 1, where b
        are the weight's own bits, or else the rules'.
        """
        done: dict[tuple[str, int | None, bytes], ir.Value] = {}
        scales: dict[ir.Node, NDArray[np.float32]] = {}
        for node in list(self._model.graph):
            if node.op_type not in _WEIGHTED or not self._in_integers(node) or node.inputs[1] is None:
                continue
            weight, tensor = node.inputs[1], ir.convenience.get_const_tensor(node.inputs[1])
            if tensor is None:
                continue
            array = np.asarray(tensor.numpy(), dtype=np.float32)
            axis = _channel_axis(node) % array.ndim if node.op_type in self._rules.per_channel else None
            own, finest = bits.get(weight.name or "", self._rules.weight_bits), self._finest(node, grids)
            integers, scale = _symmetric(array, own, axis, finest, self._storable)
            if (shape := shapes.get(weight.name or "")) is not None:
                integers, scale = _multiples(array, shape, self._rules.weight_bits, axis, finest)
                scale = self._storable(scale)
            if node.op_type == "Conv" and node.inputs[0] is not None and (read := node.inputs[0].name) in means:
                column = (scale if axis is None else scale.reshape(-1, *[1] * (array.ndim - 1))).astype(np.float64)
                error: NDArray[np.float64] = integers * column - array
                self._correct_bias(node, error, means[read or ""])
            key = (weight.name or "", axis, scale.tobytes())
            if key not in done:
                done[key] = self._stored(weight, integers, scale, axis or 0, before=node)
            node.replace_input_with(1, done[key])
            scales[node] = scale
        return scales

    def _correct_bias(self, node: ir.Node, error: NDArray[np.float64], means: NDArray[np.float64]) -> None:
        """Take off a convolution's bias what the ``error`` of its weights makes of its input's channel means."""
        bias = ir.convenience.get_const_tensor(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
        if bias is None:
            return
        each = error.reshape(*error.shape[:2], -1).sum(2)  # outputs x inputs of a group
        groups = node.attributes.get_int("group", 1)
        rows = means.reshape(groups, -1).repeat(len(each) // groups, axis=0)
        corrected = bias.numpy() - (each * rows).sum(1)
        node.replace_input_with(2, self._constant(f"{node.name}_bias", corrected.astype(np.float32)))

    def _finest(self, node: ir.Node, grids: Mapping[ir.Value, _Grid]) -> NDArray[np.float64] | float:
        """The least weight scale with which this node's bias still fits 32 bits, as kernels hold it.

        A channel with next to no weights (training leaves such) would lose its bias otherwise.
        """
        bias = ir.convenience.get_const_tensor(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
        grid = grids.get(self._groups.of(node.inputs[0])) if node.inputs[0] is not None else None
        if bias is None or grid is None:
            return 0.0
        magnitude = np.abs(bias.numpy().astype(np.float64))
        magnitude = magnitude.reshape(-1, magnitude.shape[-1] if bias.shape.rank() else 1).max(axis=0)
        finest: NDArray[np.float64] = np.maximum(magnitude / 2**30, float(_TINY)) / grid.step
        return finest

    def _quantise_biases(self, grids: Mapping[ir.Value, _Grid], scales: Mapping[ir.Node, NDArray[np.float32]]) -> None:
        """An int32 bias at the scale of the products, where the rules ask for one."""
        for node, weight_scale in scales.items():
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            tensor = ir.convenience.get_const_tensor(bias) if bias is not None else None
            grid = grids.get(self._groups.of(node.inputs[0])) if node.inputs[0] is not None else None
            if node.op_type not in self._rules.integer_bias or bias is None or tensor is None or grid is None:
                continue
            if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0:
                continue
            scale = np.asarray(grid.step * weight_scale, dtype=np.float32)
            integers = np.rint(tensor.numpy() / scale.astype(np.float64)).astype(np.int32)
            node.replace_input_with(2, self._stored(bias, integers, scale, integers.ndim - 1, before=node))

    def _stored(
        self, value: ir.Value, integers: NDArray[np.generic], scale: NDArray[np.float32], axis: int, before: ir.Node
    ) -> ir.Value:
        """The constant ``value`` as stored integers and their DequantizeLinear."""
        name = value.name or ""
        if f"{name}_{integers.dtype}" in self._model.graph.initializers:  # shared, with other scales
            name = f"{before.name}_{name}"
        # ONNX Runtime's Gemm kernel is chosen only where the zero point is spelled out, zero or not.
        zero_point = np.zeros(scale.shape, integers.dtype)
        grid = [self._constant(f"{name}_scale", scale), self._constant(f"{name}_zero_point", zero_point)]
        attributes = {"axis": axis} if scale.ndim else {}
        nodes = []
        if self._rules.integer_weights:
            source = self._constant(f"{name}_{integers.dtype}", integers)
        else:
            column = scale if not scale.ndim else np.expand_dims(scale, [i for i in range(integers.ndim) if i != axis])
            real = self._constant(f"{name}_rounded", integers.astype(np.float32) * column)
            nodes = [ir.node("QuantizeLinear", [real, *grid], attributes)]
            source = nodes[0].outputs[0]
            self._describe(source, f"{name}_{integers.dtype}", ir.Shape(integers.shape), grid[1].dtype)
        nodes.append(ir.node("DequantizeLinear", [source, *grid], attributes))
        made = nodes[-1].outputs[0]
        self._describe(made, f"{name}_dequantized", ir.Shape(integers.shape), ir.DataType.FLOAT)
        self._model.graph.insert_before(before, nodes)
        return made

    def _storable(self, scale: NDArray[np.float32] | np.float32) -> Any:
        """A scale as it will be stored: in half precision the next one up, so that no value falls off its grid."""
        if self._rules.float_dtype == "float32":
            return scale
        # What is under half precision's normal numbers keeps few digits: the grid is a little coarser there.
        half = np.maximum(scale, _LEAST_HALF).astype(np.float16)
        half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)
        return half.astype(np.float32)[()]

    @staticmethod
    def _describe(value: ir.Value, name: str, shape: ir.Shape | None, dtype: ir.DataType | None) -> None:
        assert dtype is not None
        value.name, value.shape, value.dtype = name, shape, dtype

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        self._model.graph.register_initializer(value)
        return value


@dataclass(frozen=True, slots=True)
class _Grid:
    """An affine 8-bit grid: ``real = scale * (integer - zero_point)``, from ``low`` to ``high``."""

    scale: ir.Value
    zero_point: ir.Value
    step: float
    low: float
    high: float


class _Groups:
    """Union-find over tensors: those that a moving op joins are one group."""

    def __init__(self, graph: ir.Graph, moves: frozenset[str], joined: Sequence[ir.Node]) -> None:
        """``joined`` are nodes whose inputs and output are one group, whatever they compute."""
        self._parent: dict[ir.Value, ir.Value] = {}
        self._members: dict[ir.Value, list[ir.Value]] = {}
        for node in graph:
            if _only_moves(node, moves) and node.inputs[0] is not None:
                for output in node.outputs:
                    self._parent[output] = self.of(node.inputs[0])
        for node in joined:
            first, *others = (self.of(v) for v in (*_variables(node), node.outputs[0]))
            for other in others:
                if (root := self.of(other)) is not self.of(first):
                    self._parent[root] = self.of(first)
        for value in _activations(graph):
            self._members.setdefault(self.of(value), []).append(value)

    def of(self, value: ir.Value) -> ir.Value:
        while value in self._parent:
            value = self._parent[value]
        return value

    def members(self, group: ir.Value) -> list[ir.Value]:
        return self._members[group]

    def __iter__(self) -> Iterator[ir.Value]:
        return iter(self._members)


def _activations(graph: ir.Graph) -> Iterator[ir.Value]:
    """The graph's inputs and every node's outputs, in the graph's order; constants are not among them."""
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _variables(node: ir.Node) -> list[ir.Value]:
    """This node's inputs, without the constants among them."""
    return [v for v in node.inputs if v is not None and ir.convenience.get_const_tensor(v) is None]


def _is_integer_op(node: ir.Node) -> bool:
    """An op without weights must compute on activations alone: a Mul by a constant, say, stays in float.

    So does arithmetic on shapes, which is in int64.
    """
    variables = _variables(node)
    if any(v.dtype not in (None, ir.DataType.FLOAT) for v in variables):
        return False
    return node.op_type in _WEIGHTED or len(variables) == sum(v is not None for v in node.inputs)


def _statistics(graph: ir.Graph) -> set[ir.Node]:
    """The mean that is taken off a map, the difference, and what is made of those alone without weights.

    Squares of differences, and their means, span too much for 8 bits: of most channels nothing would be left.
    """
    found: set[ir.Node] = set()
    for node in graph:
        variables = _variables(node)
        if node.op_type == "Sub" and len(variables) == 2:
            mean = variables[1].producer()
            if mean is not None and mean.op_type in _MEANS and mean.inputs[0] is variables[0]:
                found |= {mean, node}
        elif node.op_type not in _WEIGHTED and variables and all(v.producer() in found for v in variables):
            found.add(node)
    return found


def _thin(node: ir.Node, min_channels: int) -> bool:
    """Whether a convolution has fewer channels than ``thinnest``, and not a multiple of 8 of them."""
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    if shape is None or not shape.is_static():
        return False
    groups, (first, second) = node.attributes.get_int("group", 1), shape.numpy()[:2]
    channels = (first, second * groups)
    return min(channels) < min_channels and any(c % 8 for c in channels)


def _single_row(node: ir.Node) -> bool:
    """Whether a product has one row a sample, as a classifier's: at batch 1 it only reads its weights once."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return node.op_type == "Gemm" or (shape is not None and shape.rank() <= 2)


def _only_moves(node: ir.Node, moves: frozenset[str]) -> bool:
    """Padding with anything but zeros (or the image's own edge) is no mere move; nor is telling where a maximum was."""
    if node.op_type not in moves or (node.op_type != "Split" and len(node.outputs) > 1):
        return False
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant":
        return True
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    fill = ir.convenience.get_const_tensor(node.inputs[2])
    return fill is not None and not np.any(fill.numpy())


def _after_activation(value: ir.Value) -> ir.Value:
    """What a fused kernel writes: past the Relu or Clip that alone reads ``value``."""
    readers = list(value.uses())
    if len(readers) == 1 and readers[0].node.op_type in _ACTIVATIONS and not value.is_graph_output():
        return readers[0].node.outputs[0]
    return value


def _clamps(node: ir.Node, grid: _Grid) -> bool:
    """Whether saturating on ``grid`` does all that this node does."""
    if node.op_type not in _ACTIVATIONS:
        return False
    low, high = 0.0, np.inf
    if node.op_type == "Clip":
        bounds = [ir.convenience.get_const_tensor(v) if v is not None else None for v in (*node.inputs[1:], None, None)]
        low = -np.inf if bounds[0] is None else float(bounds[0].numpy())
        high = np.inf if bounds[1] is None else float(bounds[1].numpy())
    # Rounding of the scale may put the last level a hair beyond the bound: far less than a step.
    return grid.low >= low - 0.01 * grid.step and grid.high <= high + 0.01 * grid.step


def _channel_axis(node: ir.Node) -> int:
    """The axis of output channels in this node's weight."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return -1 if node.op_type == "MatMul" else 1


def _symmetric(
    weight: NDArray[np.float32],
    bits: int,
    axis: int | None,
    finest: NDArray[np.float64] | float,
    storable: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round ``weight`` onto a symmetric grid of ``bits``, no finer than ``finest``. Returns integers and scale(s)."""
    limit = 2 ** (bits - 1) - 1
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.max(np.abs(weight), axis=others, initial=0.0).astype(np.float64)
    scale = np.maximum(largest / limit, np.max(finest) if axis is None else finest).astype(np.float32)
    scale = storable(np.where(scale >= _TINY, scale, np.float32(1)))
    column = scale if axis is None else np.expand_dims(scale, others or ())
    return np.clip(np.rint(weight / column), -limit, limit).astype(np.int8), scale


def projected(shape: NDArray[np.float32], bits: int) -> tuple[NDArray[np.float32], float]:
    """Learned points on the uniform grid of ``bits`` that kernels run: integers, and what one of them is worth."""
    unit = max(float(np.max(np.abs(shape))), float(_TINY)) / (2 ** (bits - 1) - 1)
    return np.rint(shape / unit), unit


def _multiples(
    weight: NDArray[np.float32],
    shape: NDArray[np.float32],
    bits: int,
    axis: int | None,
    finest: NDArray[np.float64] | float,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``weight``, each channel of which is a multiple of ``shape``'s, on the levels that ``shape`` has of ``bits``.

    A channel that wants a scale finer than ``finest`` is next to nothing, and becomes zero.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    levels, unit = projected(shape, bits)
    exact = shape.astype(np.float64)
    product, norm = np.sum(weight * exact, axis=others), np.sum(exact**2, axis=others)
    factor = np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)
    least = np.maximum(np.max(finest) if axis is None else finest, float(_TINY))
    sign = np.where(np.abs(factor) * unit >= least, np.sign(factor), 0)
    levels = levels * (sign if axis is None else np.expand_dims(sign, others))
    return levels.astype(np.int8), np.maximum(np.abs(factor) * unit, least).astype(np.float32)
