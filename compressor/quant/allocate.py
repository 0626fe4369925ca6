"""The bits, or the number of learned points, of each weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from compressor.core import BudgetMissed, QdqRules, Signature
from compressor.lowering.export import export
from compressor.lowering.packing import pack_weights
from compressor.lowering.placement import Placement
from compressor.lowering.save import file_bytes
from compressor.quant.sensitivity import WIDTHS, bits_within, inner_weights, points_by_gradient, rounding_losses
from compressor.quant.weight_only import IndexedWeight, store_indexed
from compressor.quant.weight_spec import BitAllocation, WeightQuantSpec

__all__ = ["allocate"]

_TRIES = 4


def allocate(
    spec: WeightQuantSpec,
    network: nn.Module,
    rules: QdqRules,
    signature: Signature,
    sizes: Mapping[str, int],
    opset: int,
    images: Tensor,
    loss: Callable[[int], Tensor] | None = None,
) -> BitAllocation:
    """Choose what every weight gets that has fewer bits than the kernels' own; with float kernels, every weight.

    ``signature`` and ``sizes`` are those that ``network`` is exported with. ``images`` are what losses are compared
    on under a byte limit, ``loss`` (the training loss of a batch by its number) is what points are redistributed by.
    Raises BudgetMissed where two bits a weight exceed the byte limit.
    """
    integer_kernels = spec.format.integer_kernels
    # Points are relative to the scale of a channel, which a kernel has for convolutions.
    inner = inner_weights(network, convolutions=spec.learned and integer_kernels)
    layers = {f"{n}.weight": m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    edges = dict.fromkeys((name for name in layers if name not in inner), spec.edge_bits)
    bits = edges | dict.fromkeys(inner, spec.bits)
    if spec.byte_limit is not None:
        exported = export(network, signature, sizes, opset)
        bits = _within_limit(spec, network, _FileSize(exported, rules, spec), inner, edges, images)
    fewer = {name: b for name, b in bits.items() if not integer_kernels or b < rules.weight_bits}
    points = {name: 2**b for name, b in fewer.items() if spec.learned and name in inner}
    if points and spec.redistributed and loss is not None:
        points = points_by_gradient(network, tuple(points), 2**spec.bits, loss)
    return BitAllocation({name: b for name, b in fewer.items() if name not in points}, points, spec.format)


def _within_limit(
    spec: WeightQuantSpec,
    network: nn.Module,
    size: _FileSize,
    inner: tuple[str, ...],
    edges: Mapping[str, int],
    images: Tensor,
) -> dict[str, int]:
    """Choose bits with which the file keeps the byte limit.

    What the file takes besides the inner weights is measured with 8 bits for each; the nodes that unpack fewer bits
    take room too, so the choice is repeated, `_TRIES` times at most, with what the file then exceeds.
    """
    assert spec.byte_limit is not None
    parameters = dict(network.named_parameters())
    counts = {name: parameters[name].numel() for name in inner}
    all_eight = {**edges, **dict.fromkeys(inner, 8)}
    bits = all_eight
    others = size(bits) - sum(counts.values())
    losses: dict[str, list[float]] | None = None
    for _ in range(_TRIES):
        if (over := size(bits) - spec.byte_limit) <= 0:
            break
        others += over if bits != all_eight else 0
        losses = losses or rounding_losses(
            network, inner, images, learned=spec.learned, bucket_size=spec.format.bucket_size
        )
        found = bits_within(losses, counts, spec.byte_limit - others)
        if found is None and spec.soft_budget:
            return {**edges, **dict.fromkeys(inner, spec.bits)}
        if found is None:
            least = size({**edges, **dict.fromkeys(inner, WIDTHS[0])})
            raise BudgetMissed(
                f"with {WIDTHS[0]} bits a weight the file takes {least:,} bytes, more than {spec.byte_limit:,}",
                hint="loosen the budget, or take a smaller student: --set search.budget=…",
            )
        bits = {**edges, **found}
    return bits


@dataclass(frozen=True)
class _FileSize:
    """The bytes of the file that a network becomes, by the bits of its weights.

    It is made with the untrained weights, rounded: a file with the same bits has the same size after training.
    """

    exported: ir.Model
    rules: QdqRules
    spec: WeightQuantSpec

    def __call__(self, bits: Mapping[str, int]) -> int:
        graph = ir.from_proto(ir.to_proto(self.exported))
        if not self.spec.format.integer_kernels:
            constants = {name: graph.graph.initializers[name].const_value for name in bits}
            # Half of each constant: then a factor of its channels is stored, as after a folded normalisation.
            halves = {name: each.numpy() / 2 for name, each in constants.items() if each is not None}
            indexed = {n: self._stand_in(halves[n].shape, b, seed) for seed, (n, b) in enumerate(bits.items())}
            store_indexed(graph, indexed, halves)
            return file_bytes(graph)
        placement = Placement(graph, self.rules)
        # All ranges differ, so that no two scales are stored as one, as in a trained network.
        ranges = {name: (-1.0 - number, 2.0 + number) for number, name in enumerate(placement.tensors)}
        placement.apply(ranges, bits)
        if self.rules.folds_packed_weights and min(bits.values()) < self.rules.weight_bits:
            pack_weights(graph)
        return file_bytes(graph)

    def _stand_in(self, shape: tuple[int, ...], bits: int, seed: int) -> IndexedWeight:
        """A random weight that takes as many bytes as the trained one will; tables of two seeds differ."""
        count, bucket_size = math.prod(shape), self.spec.format.bucket_size
        rows = shape[0] if bucket_size is None else -(-count // min(bucket_size, count))
        rng = np.random.default_rng(seed)
        columns = -(-count // rows) if bucket_size is None else min(bucket_size, count)
        indices = rng.integers(2**bits, size=(rows, columns))
        table, scale, low = (rng.random(each, np.float32) + 1 for each in (2**bits, (rows, 1), (rows, 1)))
        return IndexedWeight(indices, table, scale, None if bucket_size is None else low)
