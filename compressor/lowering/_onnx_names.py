"""Names inside an ONNX graph that every tool can take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import onnx_ir as ir

__all__ = ["KeepOutputNames", "NameNodes", "NameValues"]

_PLAIN = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)


class NameValues(ir.passes.InPlacePass):
    """Give each value inside the graph a name of letters, digits, ``_`` and ``.`` that no other value has.

    Inputs and outputs of the model keep theirs, and values with such a name too.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        kept = {*graph.inputs, *graph.outputs}
        taken = {value.name or "" for value in kept}
        renamed = []
        for value in _values(graph):
            if value in kept:
                continue
            name = value.name or ""
            if _PLAIN.fullmatch(name) and name not in taken:
                taken.add(name)
            else:
                renamed.append(value)
        for value in renamed:
            value.name = _unused(_plain(value.name or ""), taken)
        model.graph.name = "compressor"
        return ir.passes.PassResult(model, bool(renamed))


class KeepOutputNames(ir.passes.InPlacePass):
    """Give the outputs of the model these names again, in order: other passes may have put one in another's place."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        outputs = model.graph.outputs
        if [value.name for value in outputs] == list(self.names):
            return ir.passes.PassResult(model, False)
        others = [value for value in _values(model.graph) if value not in outputs and value.name in self.names]
        for number, value in enumerate((*others, *outputs)):
            value.name = f"compressor.unnamed_{number}"
        for value, name in zip(outputs, self.names, strict=True):
            value.name = name
        return ir.passes.PassResult(model, True)


class NameNodes(ir.passes.InPlacePass):
    """Name each node by its operator and its number in the graph."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for number, node in enumerate(model.graph.all_nodes()):
            node.name = f"{node.op_type}_{number}"
        return ir.passes.PassResult(model, True)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values of a graph and of those inside of it, each once."""
    for inner in (graph, *graph.subgraphs()):
        yield from inner.inputs
        yield from list(inner.initializers.values())
        for node in inner:
            yield from (output for output in node.outputs if output.name or output.uses() or output.is_graph_output())


def _plain(name: str) -> str:
    made = re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_")
    return made if _PLAIN.fullmatch(made) else f"value_{made}".rstrip("_")


def _unused(name: str, taken: set[str]) -> str:
    """The name, with a number where another value has it; it is then taken."""
    made, number = name, 1
    while made in taken:
        number += 1
        made = f"{name}_{number}"
    taken.add(made)
    return made
