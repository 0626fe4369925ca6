"""Layers of a graph that INT8 can cost decibels, by their place in the network."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

__all__ = ["attention_nodes", "float_candidates"]


def attention_nodes(model: ir.Model) -> frozenset[str]:
    """The names of the nodes of channel attention: from the mean of a map up to the Mul that scales a map by it.

    That Mul is left out. The nodes between have few values, whose ranges are wide.
    """
    within: set[ir.Node] = set()
    for node in model.graph:
        inputs = [v for v in node.inputs if v is not None and ir.convenience.get_const_tensor(v) is None]
        from_within = [v for v in inputs if v.producer() in within]
        scales_map = node.op_type == "Mul" and len(from_within) < len(inputs)
        if node.op_type in ("GlobalAveragePool", "ReduceMean") or (from_within and not scales_map):
            within.add(node)
    return frozenset(node.name or "" for node in within)


def float_candidates(model: ir.Model) -> dict[str, frozenset[str]]:
    """The groups of nodes that may be left in float, by name, in ascending order of what float costs in time.

    ``attention`` and ``scaling`` by it; ``last``, the convolution before DepthToSpace, and ``first``; ``residual``, all
    sums; ``join``, the convolution of the concatenated blocks' outputs; ``skip``, the one before the long skip
    connection's sum. A group without nodes is left out.
    """
    graph = model.graph
    attention = attention_nodes(model)
    convs = [node for node in graph if node.op_type == "Conv" and node.name not in attention]
    sums = [node for node in graph if node.op_type == "Add" and node.name not in attention]
    last = [c for c in convs if any(u.node.op_type in ("DepthToSpace", "Clip") for u in c.outputs[0].uses())]
    first = [c for c in convs if c.inputs[0] is not None and c.inputs[0].is_graph_input()]
    long_sums = [s for c in last if (s := _maker(c.inputs[0], "Add")) is not None]
    before_skip = [c for s in long_sums for v in s.inputs if (c := _maker(v, "Conv")) is not None and c not in first]
    joins = [
        node
        for conv in convs
        if (concat := _maker(conv.inputs[0], "Concat")) is not None
        and all(_maker(v, "Add") is not None for v in concat.inputs)
        for node in (concat, conv)
    ]
    scaling = [
        node
        for node in graph
        if node.op_type == "Mul" and node.name not in attention and any(_is_from(v, attention) for v in node.inputs)
    ]
    groups: dict[str, Sequence[ir.Node]] = {
        "scaling": scaling,
        "last": last,
        "first": first,
        "residual": sums,
        "join": joins,
        "skip": [*before_skip, *long_sums],
    }
    found = {"attention": attention} | {k: frozenset(n.name or "" for n in nodes) for k, nodes in groups.items()}
    return {name: nodes for name, nodes in found.items() if nodes}


def _maker(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node that makes ``value``, if it is an ``op``."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op else None


def _is_from(value: ir.Value | None, names: frozenset[str]) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.name in names
