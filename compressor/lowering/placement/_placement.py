"""Where QuantizeLinear and DequantizeLinear go in a float graph.

The rules (`compressor.core.QdqRules`) come from the target's backend. The algorithm:

1. Tensors that an op only *moves* (Slice, Reshape, MaxPool …) share quantisation parameters: they form a group.
2. A group is quantised where an integer op reads it; or writes it, if the rules quantise outputs. The statistics of
   a normalisation (how far a map is from its own mean) are computed in float.
3. A group is quantised once, at its source. Ops that only move it work on the integers, and every other reader gets
   it through a DequantizeLinear; but a float op reads what a float op made as it is.
4. A Relu or Clip before a QuantizeLinear is dropped where the integers' own range clamps as it does.
5. Weights become int8 initializers, symmetric, one scale each output channel or each tensor; embedding tables, of
   which rows are read and then dequantised, one scale each column.

A runtime that works out by itself which ops may run on integers (TensorRT) wants the pairs at the
integer ops' own inputs, and nowhere else: ops that move values are then left in between, in float.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from compressor.core import QdqRules
from compressor.lowering.graph import describe
from compressor.lowering.half_range import beyond_half
from compressor.lowering.placement._groups import TensorGroups
from compressor.lowering.placement._operators import (
    WEIGHTED_OPS,
    activations,
    channels_read,
    has_float_arithmetic,
    has_too_few_channels,
    moves_values,
    normalisation_statistics,
    past_activation,
    variable_inputs,
    yields_single_rows,
)
from compressor.lowering.placement._qparams import QParams
from compressor.lowering.placement._tables import quantize_tables, reads_table
from compressor.lowering.placement._weight_rewriter import WeightRewriter

__all__ = ["Placement"]


class Placement:
    """The plan for one float graph, then the rewriting itself.

    Two steps, because the ranges of ``tensors`` are gathered in between::

        placement = Placement(model, rules)
        placement.apply(activation_ranges(model, placement.tensors, ...))
    """

    def __init__(self, model: ir.Model, rules: QdqRules, floats: frozenset[str] = frozenset()) -> None:
        """Plan for ``model``; ``floats`` are the names of nodes that stay in float, whatever the rules say."""
        common.ShapeInferencePass()(model)  # the type tells integer arithmetic on shapes from float arithmetic
        self._model = model
        self._rules = rules
        self._floats = floats | beyond_half(model) if rules.float_dtype == "float16" else floats
        read, written = self._integer_op_tensors()
        shared_scale = [
            node
            for node in model.graph
            if node.op_type in rules.shared_scale_ops
            and node.outputs[0] in read
            and node.name not in self._floats
            and has_float_arithmetic(node)
        ]
        for node in shared_scale:
            read.update(variable_inputs(node))
        self._groups = TensorGroups(model.graph, rules.passthrough_ops, shared_scale)
        self._quantised = self._groups_to_quantise(read, written)
        self._places = {
            value
            for value in activations(model.graph)
            if self._groups.root(value) in self._quantised and (rules.passthrough_in_integers or value in read)
        }

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors whose ranges `apply` wants."""
        return tuple(v.name or "" for v in activations(self._model.graph) if v in self._places)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The names of the tensors that share quantisation parameters; a group's first is where it is quantised.

        Where ops that move values stay in float, every pair is a group of its own.
        """
        if not self._rules.passthrough_in_integers:
            return tuple((name,) for name in self.tensors)
        return tuple(tuple(m.name or "" for m in self._groups.members(root)) for root in self._quantised)

    @property
    def integer_ops(self) -> tuple[str, ...]:
        """The names of the nodes that compute in integers, in the graph's order."""
        found = []
        statistics, tables = normalisation_statistics(self._model.graph), self._tables
        for node in self._model.graph:
            skips = node.op_type in self._rules.skip_branch and bool(self._skip_branch(node))
            if skips or (self._runs_in_integers(node) and node not in statistics) or node in tables:
                found.append(node.name or "")
        return tuple(found)

    @property
    def float_weights(self) -> frozenset[str]:
        """The names of the constants that ops with weights read as their weight, and that stay float."""
        nodes = (n for n in self._model.graph if n.op_type in WEIGHTED_OPS and not self._runs_in_integers(n))
        weights = (node.inputs[1] for node in nodes if len(node.inputs) > 1)
        return frozenset(w.name or "" for w in weights if w is not None and w.is_initializer())

    def apply(
        self,
        ranges: Mapping[str, tuple[float, float]],
        bits: Mapping[str, int] | None = None,
        points: Mapping[str, NDArray[np.float32]] | None = None,
        means: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        """Rewrite the model in place. A float tensor ``x`` lives on as ``x_dequantized`` where it is read.

        ``ranges`` are (low, high) of each of ``tensors``. ``bits`` are of single weights, by name, that have fewer
        than the rules' own. ``points`` are of weights whose few values were learned: the value of each element, of
        which each channel (or the tensor) of the weight is a multiple; as many distinct values are kept.
        ``means`` are of tensors, one a channel: where a convolution reads one of those, what rounding its weights
        adds to its outputs on average is taken off its bias (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
        """
        graph = self._model.graph
        qparams = {root: self._qparams(root, ranges) for root in self._quantised}

        def input_qparams(node: ir.Node) -> QParams | None:
            return qparams.get(self._groups.root(node.inputs[0])) if node.inputs[0] is not None else None

        weights = WeightRewriter(graph, self._rules, input_qparams)
        nodes = [node for node in graph if node.op_type in WEIGHTED_OPS and self._runs_in_integers(node)]
        weights.quantize_biases(weights.quantize_weights(nodes, bits or {}, points or {}, means or {}))
        integers: dict[ir.Value, ir.Value] = {}
        for value in list(activations(graph)):
            of_group = qparams.get(self._groups.root(value))
            if of_group is not None and value in self._places and value not in integers:
                integers |= self._quantise(value, of_group, integers)
        for value, integer in integers.items():
            self._dequantise(value, integer, qparams[self._groups.root(value)])
        quantize_tables(graph, self._tables)
        common.RemoveUnusedNodesPass()(self._model)
        common.DeduplicateInitializersPass()(self._model)
        for number, node in enumerate(graph):
            node.name = f"{node.op_type}_{number}"

    @property
    def _tables(self) -> list[ir.Node]:
        """The nodes that read embedding tables which are to be integers."""
        nodes = (node for node in self._model.graph if self._rules.integer_tables and node.name not in self._floats)
        return [node for node in nodes if reads_table(node)]

    # -- which tensors --------------------------------------------------------------------------

    def _integer_op_tensors(self) -> tuple[set[ir.Value], set[ir.Value]]:
        """The tensors that an integer op reads, and those that one writes in integers."""
        rules = self._rules
        read: set[ir.Value] = set()
        written: set[ir.Value] = set()
        statistics = normalisation_statistics(self._model.graph)
        for node in self._model.graph:
            if node.op_type in rules.skip_branch:
                read.update(self._skip_branch(node))
            elif self._runs_in_integers(node) and node not in statistics:
                read.update(variable_inputs(node))
                if node.op_type in rules.quantize_outputs:
                    written.add(past_activation(node.outputs[0]))
        return read, written

    def _runs_in_integers(self, node: ir.Node) -> bool:
        """Whether the rules have this op compute in integers, and it is not among those to stay in float."""
        return node.name not in self._floats and self._is_quantizable(node)

    def _is_quantizable(self, node: ir.Node) -> bool:
        rules = self._rules
        if node.op_type not in rules.quantizable_ops or not has_float_arithmetic(node):
            return False
        if node.op_type in ("Conv", "ConvTranspose"):
            return not has_too_few_channels(node, rules.min_channels, rules.min_transposed_group_channels)
        return rules.quantize_gemv or not yields_single_rows(node)

    def _skip_branch(self, node: ir.Node) -> list[ir.Value]:
        """The branch of a sum that is added inside the other branch's convolution kernel; empty where none is.

        Where both branches come from convolutions the later one adds.
        """
        branches = variable_inputs(node)
        if len(branches) != 2 or branches[0] is branches[1] or not has_float_arithmetic(node):
            return []
        order = {each: number for number, each in enumerate(self._model.graph)}
        fused = [(order[maker], i, maker) for i, v in enumerate(branches) if (maker := self._sole_maker(v)) is not None]
        if not fused:
            return []
        _, branch, adding = max(fused, key=lambda each: each[:2])
        return [branches[1 - branch]] if {node.name, adding.name}.isdisjoint(self._floats) else []

    def _sole_maker(self, value: ir.Value) -> ir.Node | None:
        """The op with weights that can run in integers and gives ``value`` to its one reader alone."""
        maker = value.producer()
        if maker is None or len(value.uses()) != 1 or value.is_graph_output():
            return None
        return maker if maker.op_type in WEIGHTED_OPS and self._is_quantizable(maker) else None

    def _groups_to_quantise(self, read: set[ir.Value], written: set[ir.Value]) -> tuple[ir.Value, ...]:
        """The roots of the groups to quantise, in the graph's order: the same graph always gives the same file."""
        root = self._groups.root
        roots = {root(v) for v in written}
        if self._rules.keep_float_outputs:
            roots -= {root(v) for v in self._model.graph.outputs}
        roots |= {root(v) for v in read}
        return tuple(each for each in self._groups if each in roots)

    def _qparams(self, root: ir.Value, ranges: Mapping[str, tuple[float, float]]) -> QParams:
        """The parameters of a group: they span the ranges of all its members, and zero."""
        members = [ranges[v.name or ""] for v in self._groups.members(root) if v in self._places]
        low, high = min(0.0, *(r[0] for r in members)), max(0.0, *(r[1] for r in members))
        return QParams.of_range(self._model.graph, root.name or "", low, high, self._rules)

    # -- rewriting ------------------------------------------------------------------------------

    def _quantise(
        self, value: ir.Value, qparams: QParams, integers: Mapping[ir.Value, ir.Value]
    ) -> dict[ir.Value, ir.Value]:
        """Make the integers of ``value``; of all its producer's outputs, where that only moves integers made before."""
        graph, producer = self._model.graph, value.producer()
        if self._rules.passthrough_in_integers and producer is not None:
            moves = moves_values(producer, self._rules.passthrough_ops)
            if moves and (source := producer.inputs[0]) is not None and source in integers:
                return self._move_integers(producer, integers[source], qparams)
        real = value
        if producer is not None and self._rules.fold_activations and qparams.clamp_like(producer):
            assert producer.inputs[0] is not None
            real = producer.inputs[0]
        quantise = ir.node("QuantizeLinear", [real, qparams.scale, qparams.zero_point])
        describe(quantise.outputs[0], f"{value.name}_quantized", value.shape, qparams.zero_point.dtype)
        if producer is None:
            graph.insert_before(graph[0], quantise)
        else:
            graph.insert_after(producer, quantise)
        return {value: quantise.outputs[0]}

    def _move_integers(self, node: ir.Node, source: ir.Value, qparams: QParams) -> dict[ir.Value, ir.Value]:
        """Add the twin of ``node``, which moves values, that moves the integers ``source``."""
        inputs = [source, *node.inputs[1:]]
        if node.op_type == "Pad":  # zero, as an integer, is the zero point
            inputs = [inputs[0], inputs[1], qparams.zero_point, *inputs[3:]]
        twin = ir.node(node.op_type, inputs, node.attributes, num_outputs=len(node.outputs))
        self._model.graph.insert_after(node, twin)
        for old, new in zip(node.outputs, twin.outputs, strict=True):
            describe(new, f"{old.name}_quantized", old.shape, qparams.zero_point.dtype)
        return dict(zip(node.outputs, twin.outputs, strict=True))

    def _dequantise(self, value: ir.Value, integer: ir.Value, qparams: QParams) -> None:
        """Give the readers of the float ``value`` what its integers stand for.

        Nodes that stay in float by name read the float output of another such node as it is.
        """
        graph, maker, producer = self._model.graph, integer.producer(), value.producer()
        assert maker is not None
        in_float = self._floats if producer is not None and producer.name in self._floats else frozenset()
        readers = [use for use in value.uses() if use.node is not maker and use.node.name not in in_float]
        if not readers and not value.is_graph_output():
            return
        dequantise = ir.node("DequantizeLinear", [integer, qparams.scale, qparams.zero_point])
        twin = dequantise.outputs[0]
        describe(twin, f"{value.name}_dequantized", value.shape, ir.DataType.FLOAT)
        graph.insert_after(maker, dequantise)
        for use in readers:
            kept = self._kept_in_float(use.node, integer, qparams) if use.idx == 0 else None
            use.node.replace_input_with(use.idx, twin if kept is None else kept)
        for index, output in enumerate(graph.outputs):
            if output is value:
                twin.name, value.name = value.name, f"{value.name}_unquantized"
                graph.outputs[index] = twin

    def _kept_in_float(self, node: ir.Node, integer: ir.Value, qparams: QParams) -> ir.Value | None:
        """What a layer with float weights reads where the runtime would round them: the scale once for each channel.

        Such a DequantizeLinear makes the same floats, and the runtime leaves the layer alone. None for other nodes.
        """
        maker, channels = integer.producer(), channels_read(node)
        if node.op_type not in self._rules.rounds_float_weights or channels in (None, 1):  # one: a single scale again
            return None
        scale, zero_point = qparams.of_channels(self._model.graph, channels)
        dequantise = ir.node("DequantizeLinear", [integer, scale, zero_point], {"axis": 1})
        describe(dequantise.outputs[0], f"{integer.name}_for_{node.name}", integer.shape, ir.DataType.FLOAT)
        assert maker is not None
        self._model.graph.insert_after(maker, dequantise)
        return dequantise.outputs[0]
