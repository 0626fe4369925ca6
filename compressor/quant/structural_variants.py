"""Parts of a graph that runtimes are often better off with in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from compressor.quant.float_layers import attention_nodes
from compressor.quant.regions import WEIGHTED

__all__ = ["structural_variants"]

_SMALL_SHARE = 0.01
"""A layer with a smaller share of the network's multiplications gains little in integers."""


def structural_variants(
    graph: ir.Model, integer_ops: Sequence[str], macs: Mapping[str, int]
) -> dict[frozenset[str], str]:
    """Return sets of the nodes ``integer_ops`` that may stay in float, each with its name for people.

    They are gates (squeeze and excitation), arithmetic without weights, layers of few multiplications, grouped
    convolutions, products of activations, and some of these together. ``macs`` are the layers' multiplications.
    """
    integers = frozenset(integer_ops)
    nodes = [node for node in graph.graph if node.name in integers]
    gates = attention_nodes(graph) & integers
    plain = frozenset(node.name or "" for node in nodes if node.op_type not in WEIGHTED)
    grouped = frozenset(node.name or "" for node in nodes if node.attributes.get_int("group", 1) > 1)
    products = frozenset(node.name or "" for node in nodes if _multiplies_activations(node))
    total = sum(macs.values()) or 1
    small = frozenset(name for name, count in macs.items() if count < _SMALL_SHARE * total)
    named = {
        "gates in float": gates,
        "arithmetic without weights in float": plain,
        "gates and small layers in float": gates | small,
        "small layers and arithmetic in float": small | plain,
        "products of activations and arithmetic in float": products | plain,
        "grouped convolutions in float": grouped,
        "grouped convolutions and gates in float": grouped | gates,
        "grouped convolutions and arithmetic in float": grouped | plain,
    }
    variants: dict[frozenset[str], str] = {}
    for name, floats in named.items():
        if floats and floats < integers:
            variants.setdefault(floats, name)
    return variants


def _multiplies_activations(node: ir.Node) -> bool:
    """Whether it is a matrix product without a constant, as attention has them."""
    return node.op_type == "MatMul" and all(v is not None and not v.is_initializer() for v in node.inputs)
