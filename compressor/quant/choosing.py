"""From what is asked of a network's weights to the levels of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from compressor.core import BudgetMissed, InputSpec, QdqRules, image_signature
from compressor.lowering.export import export
from compressor.lowering.save import file_bytes
from compressor.quant.coded import Coded, code
from compressor.quant.levels import WIDTHS, WeightQuantSpec, BitAllocation, fitting, inner, shared
from compressor.lowering.packing import pack
from compressor.lowering.placement import Placement

__all__ = ["choose"]

_TRIES = 4


def choose(
    asked: WeightQuantSpec,
    network: nn.Module,
    rules: QdqRules,
    input: InputSpec,
    opset: int,
    images: Tensor,
    loss: Callable[[int], Tensor] | None = None,
) -> BitAllocation:
    """The levels of every weight that has fewer than the rules' bits; of every weight, where kernels are float.

    ``loss`` of a batch by its number is what points are redistributed by. Under a byte limit the file is made
    with the weights as they are, rounded, and measured: a file of the same levels has the same size after
    training. Raises BudgetMissed where two bits a weight are too many.
    """
    form = asked.form
    # A kernel's integers have one scale for each channel of a convolution, which is what points are relative to.
    names = inner(network, convolutions=asked.learned and form.integers)
    weights = {f"{n}.weight": m.weight for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    edges = dict.fromkeys((name for name in weights if name not in names), asked.edge_bits)
    bits = edges | dict.fromkeys(names, asked.bits)
    if asked.limit is not None:
        size = partial(_size, export(network, *image_signature(input), opset), rules, asked)
        bits = edges | dict.fromkeys(names, 8)
        rest = size(bits) - sum(weights[name].numel() for name in names)
        for _ in range(_TRIES):
            if (over := size(bits) - asked.limit) <= 0:
                break
            rest += over if bits != edges | dict.fromkeys(names, 8) else 0  # what unfolds the codes takes room too
            found = fitting(network, names, asked.limit - rest, images, learned=asked.learned, bucket=form.bucket)
            if found is None and asked.soft_budget:
                bits = edges | dict.fromkeys(names, asked.bits)
                break
            if found is None:
                least = size(edges | dict.fromkeys(names, WIDTHS[0]))
                raise BudgetMissed(
                    f"with {WIDTHS[0]} bits a weight the file takes {least:,} bytes, more than {asked.limit:,}",
                    hint="loosen the budget, or take a smaller student: --set search.budget=…",
                )
            bits = edges | found
    fewer = {name: b for name, b in bits.items() if not form.integers or b < rules.weight_bits}
    points = {name: 2**b for name, b in fewer.items() if asked.learned and name in names}
    if points and asked.redistributed and loss is not None:
        points = shared(network, tuple(points), 2**asked.bits, loss)
    return BitAllocation({name: b for name, b in fewer.items() if name not in points}, points, form)


def _size(exported: ir.Model, rules: QdqRules, asked: WeightQuantSpec, bits: Mapping[str, int]) -> int:
    """Bytes of the packed file with weights of so many bits."""
    graph = ir.from_proto(ir.to_proto(exported))
    if not asked.form.integers:
        constants = {name: graph.graph.initializers[name].const_value for name in bits}
        halves = {name: each.numpy() / 2 for name, each in constants.items() if each is not None}  # no factor is 1
        numbered = enumerate(bits.items())
        code(graph, {name: _as_large(halves[name].shape, b, asked, at) for at, (name, b) in numbered}, halves)
        return file_bytes(graph)
    placement = Placement(graph, rules)
    # No two ranges alike: the scales of a trained network are not stored once for all either.
    ranges = {name: (-1.0 - number, 2.0 + number) for number, name in enumerate(placement.tensors)}
    placement.apply(ranges, bits)
    if rules.folds_packed_weights and min(bits.values()) < rules.weight_bits:
        pack(graph)
    return file_bytes(graph)


def _as_large(shape: tuple[int, ...], bits: int, asked: WeightQuantSpec, number: int) -> Coded:
    """Codes that take as many bytes as those of the trained weight will: no two tables alike, or one would do."""
    count, bucket = math.prod(shape), asked.form.bucket
    rows = shape[0] if bucket is None else -(-count // min(bucket, count))
    some = np.random.default_rng(number)
    codes = some.integers(2**bits, size=(rows, -(-count // rows) if bucket is None else min(bucket, count)))
    levels, scale, low = (some.random(each, np.float32) + 1 for each in (2**bits, (rows, 1), (rows, 1)))
    return Coded(codes, levels, scale, None if bucket is None else low)
