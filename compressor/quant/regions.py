"""Neighbouring operations of a graph, which change their precision together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

__all__ = ["WEIGHTED", "regions"]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"})
"""Operators that begin a region."""


def regions(names: Sequence[str], ops: Mapping[str, str], most: int) -> list[frozenset[str]]:
    """Part the nodes ``names``, in the graph's order, into at most ``most`` regions of about as many layers.

    A region is one or more layers with weights, each with what follows it up to the next. ``ops`` are operators by
    the node's name.
    """
    starts: list[list[str]] = []
    for name in names:
        if not starts or ops[name] in WEIGHTED:
            starts.append([])
        starts[-1].append(name)
    count = min(most, len(starts))
    cuts = [round(i * len(starts) / count) for i in range(count + 1)] if count else []
    return [frozenset(name for start in starts[a:b] for name in start) for a, b in pairwise(cuts)]
