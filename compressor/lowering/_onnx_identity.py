"""Identity nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["DropIdentities"]


class DropIdentities(ir.passes.InPlacePass):
    """Remove each Identity, but for those that stand for an input, or for a value of a graph around, as an output."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for graph in _graphs(model):
            for node in [node for node in graph if node.op_type == "Identity" and not node.domain]:
                changed |= _dropped(graph, node)
        return ir.passes.PassResult(model, changed)


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from model.graph.subgraphs()


def _dropped(graph: ir.Graph, node: ir.Node) -> bool:
    source, made = node.inputs[0], node.outputs[0]
    if source is None:
        return False
    if made.is_graph_output():
        maker = source.producer()
        if maker is None or maker.graph is not graph or source.is_graph_output():
            return False
        source.name, made.name = made.name, f"{made.name}_identity"
    if source.shape is None:
        source.shape = made.shape
    ir.convenience.replace_all_uses_with(made, source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True
