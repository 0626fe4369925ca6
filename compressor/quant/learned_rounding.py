"""Rounding of weights learned layer by layer: AdaRound (Nagel et al. 2020, arXiv 2004.10568).

Whether a weight is rounded up or down is learned so that the layer's output, from what the layers before it make with
their own rounded weights, is near the float network's (the asymmetric reconstruction of section 3.3, without the
activation). That error is a quadratic form of the weights, so the samples are needed once, for its two matrices, and
not in each step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.core import Progress, QdqRules
from compressor.lowering.graph import add_constant
from compressor.lowering.placement import Placement
from compressor.quant._layer_rows import LayerRows, rows_of
from compressor.quant._prefix import PrefixRuns

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["LearnedRounding"]

_STEPS = 1000
_LR = 0.03
_ZETA, _GAMMA = 1.1, -0.1
"""The ends to which the sigmoid is stretched (equation 23)."""
_BETA = (20.0, 2.0)
"""The regulariser's exponent, at the first step that has it and at the last (section 3.2)."""
_WARM_UP = 0.2
"""The part of the steps without the regulariser."""
_LAMBDA = 10.0
"""The regulariser's weight, against the error relative to that of rounding to nearest."""
_FRACTIONS = tuple(0.4 + 0.025 * i for i in range(25))
"""Fractions of a channel's largest magnitude that are tried as the end of its grid."""


@dataclass(frozen=True)
class LearnedRounding:
    """Learns the rounding of the weights that run in integers."""

    graph: ir.Model
    """The float32 graph; its nodes have names."""
    rules: QdqRules
    bits: Mapping[str, int]
    """The bits of weights, by name, that have fewer than the rules' own."""
    batches: Sequence[Feeds]
    minutes: float
    """About how long it may take; layers that are left are rounded to nearest."""
    progress: Progress
    most: int | None = None
    """How many layers are learned at most; None: all that there is time for."""

    def run(self) -> int:
        """Put the weights of the graph on their grids, which rounding to nearest then finds again.

        Returns how many layers were learned.
        """
        deadline = time.monotonic() + 60 * self.minutes
        layers = self._layers()
        runs = PrefixRuns(self.graph.clone(), self.batches)
        learned = 0
        for number, node in enumerate(layers):
            self.progress("learn rounding", number, len(layers))
            if time.monotonic() > deadline or learned == self.most:
                break
            if (rows := rows_of(node)) is None:
                continue
            self._replace(node, rows, _Moments.gather(rows, runs.pairs(self.graph, rows.source)))
            learned += 1
        return learned

    def _layers(self) -> list[ir.Node]:
        """The nodes that run in integers with a weight of their own."""
        placed = set(Placement(self.graph.clone(), self.rules).integer_ops)
        nodes = (node for node in self.graph.graph if node.name in placed and len(node.inputs) > 1)
        return [node for node in nodes if node.inputs[1] is not None and len(node.inputs[1].uses()) == 1]

    def _replace(self, node: ir.Node, rows: LayerRows, moments: _Moments) -> None:
        """Put a layer's rounded weights into the graph, and take what they add on average off its bias."""
        assert node.inputs[1] is not None
        weight, name = rows.weight, node.inputs[1].name or ""
        bits = self.bits.get(name, self.rules.weight_bits)
        shared = node.op_type not in self.rules.per_channel
        inputs, crossed = moments.inputs.float(), moments.crossed.float()
        rounded = learn(weight.float(), inputs, crossed, bits, one_scale=shared).double()
        self._set(node, 1, rows.restored(rounded))
        if rows.bias is not None:
            before = (weight * moments.mean_before.unsqueeze(1)).sum(2)
            after = (rounded * moments.mean.unsqueeze(1)).sum(2)
            bias = rows.bias + (before - after).reshape(-1)
            self._set(node, 2, bias.float().numpy())

    def _set(self, node: ir.Node, index: int, array: NDArray[np.float32]) -> None:
        """Give a constant new values; one that others read too becomes the node's own."""
        constant = node.inputs[index]
        assert constant is not None
        if len(constant.uses()) == 1:
            constant.const_value = ir.tensor(array, name=constant.name)
        else:
            own = add_constant(self.graph.graph, f"{constant.name}_of_{node.name}", array)
            node.replace_input_with(index, own)


@dataclass(frozen=True)
class _Moments:
    """Second moments of a layer's inputs about their means: G groups of K values."""

    inputs: Tensor
    """G x K x K: of what the layer reads behind rounded weights."""
    crossed: Tensor
    """G x K x K: of that with what it reads in the float network."""
    mean: Tensor
    """G x K."""
    mean_before: Tensor
    """G x K, in the float network."""

    @classmethod
    def gather(cls, rows: LayerRows, pairs: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> _Moments:
        groups, _, size = rows.weight.shape
        inputs, crossed = (torch.zeros(groups, size, size, dtype=torch.float64) for _ in range(2))
        mean, before = (torch.zeros(groups, size, dtype=torch.float64) for _ in range(2))
        total = 0
        for rounded, plain in pairs:
            x, y = rows.of(rounded), rows.of(plain)
            total += x.shape[1]
            inputs += x.mT @ x
            crossed += x.mT @ y
            mean += x.sum(1, dtype=torch.float64)
            before += y.sum(1, dtype=torch.float64)
        mean, before = mean / total, before / total
        inputs = inputs / total - mean.unsqueeze(2) * mean.unsqueeze(1)
        return cls(inputs, crossed / total - mean.unsqueeze(2) * before.unsqueeze(1), mean, before)


def learn(weight: Tensor, inputs: Tensor, crossed: Tensor, bits: int, *, one_scale: bool = False) -> Tensor:
    """Round a weight, G x O x K, to ``bits`` so that its products are near those of the float weight.

    ``inputs`` and ``crossed`` are G x K x K: E[x x'] of the inputs x, and E[x y'] with the float network's inputs y.
    Returns the rounded weight; each channel's largest magnitude is the end of its grid.
    """
    limit = 2 ** (bits - 1) - 1
    scale = _scales(weight, inputs, limit, one_scale=one_scale)
    floor = torch.floor(weight / scale)
    nearest = torch.clamp(torch.round(weight / scale), -limit, limit) * scale
    held = (nearest / scale).abs() >= limit - 0.5
    target = weight @ crossed.mT  # E[(w y) x']

    def error(rounded: Tensor) -> float:  # less what no rounding changes
        return float((rounded * (rounded @ inputs - 2 * target)).sum())

    unit = ((nearest - weight) * ((nearest - weight) @ inputs)).sum() + 1e-12
    stretched = (weight / scale - floor - _GAMMA) / (_ZETA - _GAMMA)
    v = torch.logit(stretched).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=_LR)
    for step in range(_STEPS):
        up = torch.clamp(torch.sigmoid(v) * (_ZETA - _GAMMA) + _GAMMA, 0, 1)
        rounded = torch.where(held, nearest, torch.clamp(floor + up, -limit, limit) * scale)
        slope = 2 * (rounded.detach() @ inputs - target)
        loss = (rounded * slope).sum() / unit + _LAMBDA * _regulariser(up, step / _STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chosen = torch.clamp(floor + (v.detach() >= 0), -limit, limit) * scale
    learned = torch.where(held, nearest, chosen)
    return learned if error(learned) < error(nearest) else nearest


def _regulariser(up: Tensor, part: float) -> Tensor | float:
    """How far the roundings are from 0 or 1 (equation 24), none in the first ``_WARM_UP`` of the steps."""
    if part < _WARM_UP:
        return 0.0
    progress = (part - _WARM_UP) / (1 - _WARM_UP)
    beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 + math.cos(math.pi * progress)) / 2
    return (1 - (2 * up - 1).abs() ** beta).mean()


def _scales(weight: Tensor, inputs: Tensor, limit: int, *, one_scale: bool) -> Tensor:
    """The steps of the grids: of a channel, or one of all, with the least error of products of uncorrelated inputs."""
    importance = inputs.diagonal(dim1=1, dim2=2).unsqueeze(1)
    over = (0, 1, 2) if one_scale else (2,)
    largest = weight.abs().amax(over, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    best, least = largest / limit, torch.full_like(largest, math.inf)
    for fraction in _FRACTIONS:
        scale = largest * fraction / limit
        rounded = torch.clamp(torch.round(weight / scale), -limit, limit) * scale
        error = (importance * (rounded - weight) ** 2).sum(over, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
