"""From what is asked of a network's weights to the levels of each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import onnx_ir as ir
from torch import Tensor, nn

from compressor.core import BudgetMissed, InputSpec, QdqRules
from compressor.export import export
from compressor.quant.levels import WIDTHS, Asked, Levels, fitting, inner
from compressor.quant.packing import pack
from compressor.quant.placement import Placement

__all__ = ["choose"]

_TRIES = 4


def choose(asked: Asked, network: nn.Module, rules: QdqRules, input: InputSpec, opset: int, images: Tensor) -> Levels:
    """The levels of every weight that has fewer than the rules' bits.

    Under a byte limit the file is made with the weights as they are, rounded, and measured: a file of the same
    levels has the same size after training. Raises BudgetMissed where two bits a weight are too many.
    """
    names = inner(network, learned=asked.learned)
    weights = {f"{n}.weight": m.weight for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    edges = dict.fromkeys((name for name in weights if name not in names), asked.edge_bits)
    bits = edges | dict.fromkeys(names, asked.bits)
    if asked.limit is not None:
        size = partial(_size, export(network, input, opset), rules)
        bits = edges | dict.fromkeys(names, 8)
        rest = size(bits) - sum(weights[name].numel() for name in names)
        for _ in range(_TRIES):
            if (over := size(bits) - asked.limit) <= 0:
                break
            rest += over if bits != edges | dict.fromkeys(names, 8) else 0  # what unfolds the codes takes room too
            found = fitting(network, names, asked.limit - rest, images, learned=asked.learned)
            if found is None and asked.yielding:
                bits = edges | dict.fromkeys(names, asked.bits)
                break
            if found is None:
                least = size(edges | dict.fromkeys(names, WIDTHS[0]))
                raise BudgetMissed(
                    f"with {WIDTHS[0]} bits a weight the file takes {least:,} bytes, more than {asked.limit:,}",
                    mend="loosen the budget, or take a smaller student: --set search.budget=…",
                )
            bits = edges | found
    fewer = {name: b for name, b in bits.items() if b < rules.weight_bits}
    points = {name: 2**b for name, b in fewer.items() if asked.learned and name in names}
    return Levels({name: b for name, b in fewer.items() if name not in points}, points)


def _size(exported: ir.Model, rules: QdqRules, bits: Mapping[str, int]) -> int:
    """Bytes of the packed file with weights of so many bits."""
    graph = ir.from_proto(ir.to_proto(exported))
    placement = Placement(graph, rules)
    # No two ranges alike: the scales of a trained network are not stored once for all either.
    ranges = {name: (-1.0 - number, 2.0 + number) for number, name in enumerate(placement.tensors)}
    placement.apply(ranges, bits)
    if rules.unfolds:
        pack(graph)
    proto = ir.to_proto(graph)
    del proto.graph.value_info[:]
    return int(proto.ByteSize())
