"""Tensors that share one set of quantisation parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from compressor.lowering.placement._operators import activations, moves_values, variable_inputs

__all__ = ["TensorGroups"]


class TensorGroups:
    """A union-find over a graph's activations; a group is known by its root, the tensor where it is quantised."""

    def __init__(self, graph: ir.Graph, passthrough_ops: frozenset[str], shared_scale: Sequence[ir.Node]) -> None:
        """Join what a node of ``passthrough_ops`` moves, and the inputs and output of the nodes ``shared_scale``."""
        self._parent: dict[ir.Value, ir.Value] = {}
        self._members: dict[ir.Value, list[ir.Value]] = {}
        for node in graph:
            if moves_values(node, passthrough_ops) and node.inputs[0] is not None:
                for output in node.outputs:
                    self._parent[output] = self.root(node.inputs[0])
        for node in shared_scale:
            first, *others = (self.root(v) for v in (*variable_inputs(node), node.outputs[0]))
            for other in others:
                if (root := self.root(other)) is not self.root(first):
                    self._parent[root] = self.root(first)
        for value in activations(graph):
            self._members.setdefault(self.root(value), []).append(value)

    def root(self, value: ir.Value) -> ir.Value:
        """The tensor by which the group of ``value`` is known."""
        while value in self._parent:
            value = self._parent[value]
        return value

    def members(self, root: ir.Value) -> list[ir.Value]:
        """The tensors of a group, in the graph's order."""
        return self._members[root]

    def __iter__(self) -> Iterator[ir.Value]:
        """Yield the roots, in the order of the groups' first members in the graph."""
        return iter(self._members)
