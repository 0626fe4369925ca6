"""A network that computes in float what its integers will: Brevitas layers where the target's rules want them."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from compressor.core import QdqRules, Signature, UsageError
from compressor.lowering.export import export_marked, mark
from compressor.lowering.placement import Placement, project_points
from compressor.quant._quant_layers import quant_layer
from compressor.quant._tracing import copy_of, insert_behind, quantisable_nodes, trace
from compressor.quant.bucket_quantizer import BucketQuantizer
from compressor.quant.codebook import Codebook
from compressor.quant.weight_only import IndexedWeight, index_weight, store_indexed
from compressor.quant.weight_spec import BitAllocation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Brevitas's own deprecations
    from brevitas.nn import QuantIdentity
    from brevitas.quant import Int8ActPerTensorFloat, ShiftedUint8ActPerTensorFloat, Uint8ActPerTensorFloat

__all__ = ["FakeQuantised"]

_QUANTISER = "quantiser_{}"


class FakeQuantised:
    """``network`` with the quantisers that `compressor.lowering.placement` will place, to be trained and then lowered.

    The placement itself decides where they go: the network is exported once with a mark on every tensor, and the
    marked tensors that it quantises get a quantiser. Weights are symmetric, the largest magnitude of each channel
    (or tensor) on the last integer. Batch normalisations stay behind them as they are: to fold one into the weights
    scales a channel and its integers' step alike. The scales and zero points of activations are learned, from the
    percentiles of ``batches`` on (Brevitas's defaults).

    ``signature`` and ``sizes`` are those of the exported graph; ``floats`` names the nodes of a graph that stay in
    float. ``allocation`` is of the weights that have fewer bits than the rules', or, where its format is not for
    integer kernels, of all weights; activations then stay float. On integer kernels a weight with learned points
    (`compressor.quant.codebook.Codebook`) needs a scale for each channel.

    Raises UsageError where the network's forward cannot be traced.
    """

    def __init__(
        self,
        network: nn.Module,
        rules: QdqRules,
        signature: Signature,
        sizes: Mapping[str, int],
        opset: int,
        batches: Iterable[Tensor],
        allocation: BitAllocation | None = None,
        floats: Callable[[ir.Model], frozenset[str]] | None = None,
    ) -> None:
        self.rules, self.signature, self.sizes, self.opset = rules, signature, sizes, opset
        allocation = allocation or BitAllocation()
        self._format = allocation.format
        self._floats = floats or _no_floats
        traced = trace(network)
        self._points = quantisable_nodes(traced)
        graph, names = self._export(traced)
        self._groups: tuple[tuple[str, ...], ...] = ()
        self._float_weights: frozenset[str] = frozenset()
        if self._format.integer_kernels:
            placement = Placement(graph, rules, self._floats(graph))
            self._groups, self._float_weights = placement.groups, placement.float_weights
        self._bits = {name: bits for name, bits in allocation.bits.items() if name not in self._float_weights}
        self._learned = {name: points for name, points in allocation.points.items() if name not in self._float_weights}
        self._chosen = self._choose_points(names, type(network).__name__)
        if self._groups:
            self.module = self._calibrated(traced, list(batches))
        else:
            self.module = self._quantised(traced, set(), 1).eval()

    def recalibrate(self, batches: Iterable[Tensor]) -> None:
        """Estimate the batch normalisations' statistics anew, as means over quantised forward passes of ``batches``."""
        norms = [m for m in self.module.modules() if isinstance(m, nn.BatchNorm2d)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        self.module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for batch in batches:
                self.module(batch)
        self.module.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def weights(self, like: nn.Module) -> dict[str, Tensor]:
        """The float weights under the names of the network ``like``, in its own precision and layout."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Brevitas calls deprecated functions of torch
            state = self.module.state_dict()
        state |= {name: self._holder(name).weight for name in self._parametrised}
        # What the network holds but never calls is not in the module: it stays as it was.
        return {name: state.get(name, tensor).detach().cpu().contiguous() for name, tensor in like.state_dict().items()}

    def lowered(self, network: nn.Module) -> tuple[ir.Model, ir.Model]:
        """The graphs of ``network``, which has the trained weights: in float, and quantised with the learned scales.

        For float kernels weights are already stored as indices; for integer kernels
        `compressor.lowering.packing.pack_weights` does that.
        """
        exact, _ = self._export(trace(network))
        graph = ir.from_proto(ir.to_proto(exact))
        if not self._format.integer_kernels:
            exported = {name: each.detach().numpy() for name, each in network.state_dict().items()}
            store_indexed(graph, self._indexed(), exported)
            return exact, graph
        ranges: dict[str, tuple[float, float]] = {}
        for group in self._groups:
            ranges |= dict.fromkeys(group, self._range(self._chosen[group[0]]))
        Placement(graph, self.rules, self._floats(graph)).apply(ranges, self._bits, self._assigned_points())
        return exact, graph

    def projection_db(self) -> float | None:
        """The signal-to-noise ratio in dB of learned points after their rounding to the target's integers.

        It is over all weights. None where there are no learned points, or where kernels are float and points stay
        as they are.
        """
        if not (self._format.integer_kernels and self._learned):
            return None
        signal = noise = 0.0
        for points in self._assigned_points().values():
            integers, scale = project_points(points, self.rules.weight_bits)
            signal += float(np.sum(points.astype(np.float64) ** 2))
            noise += float(np.sum((integers * scale - points.astype(np.float64)) ** 2))
        return 10 * math.log10(signal / noise) if signal and noise else None

    @property
    def _parametrised(self) -> tuple[str, ...]:
        """The weights whose layers are torch's own with a parametrisation; the others' layers are Brevitas's."""
        return tuple(self._learned) if self._format.bucket_size is None else (*self._learned, *self._bits)

    def _indexed(self) -> dict[str, IndexedWeight]:
        found = {}
        for name in (*self._learned, *self._bits):
            holder = self._holder(name)
            weight = holder.parametrizations.weight.original if name in self._parametrised else holder.weight
            codebook = holder.parametrizations.weight[0] if name in self._learned else None
            found[name] = index_weight(weight, self._bits.get(name, 0), self._format.bucket_size, codebook)
        return found

    def _holder(self, name: str) -> Any:
        """The layer that has the weight ``name``."""
        return self.module.get_submodule(name.rpartition(".")[0])

    def _assigned_points(self) -> dict[str, NDArray[np.float32]]:
        """The point that each element of a learned weight takes, before its channel's scale."""
        found = {}
        for name in self._learned:
            learned = self._holder(name).parametrizations.weight
            indices, points = learned[0].assign(learned.original)
            found[name] = points[indices].reshape(learned.original.shape).cpu().numpy()
        return found

    # -- making ---------------------------------------------------------------------------------

    def _export(self, traced: fx.GraphModule) -> tuple[ir.Model, dict[int, str]]:
        marked = copy_of(traced)
        for index, node in enumerate(self._nodes(marked)):
            with marked.graph.inserting_after(node):
                made = marked.graph.call_function(mark, (node, index))
            insert_behind(node, made)
        marked.recompile()
        return export_marked(marked.eval(), self.signature, self.sizes, self.opset)

    def _nodes(self, traced: fx.GraphModule) -> Iterator[fx.Node]:
        by_name = {node.name: node for node in traced.graph.nodes}
        return (by_name[name] for name in self._points)

    def _choose_points(self, tensors: Mapping[int, str], network: str) -> dict[str, int]:
        """The marked node of each group's first tensor. Raises UsageError where a tensor has none."""
        firsts = {group[0] for group in self._groups}
        chosen: dict[str, int] = {}
        for index in sorted(tensors):
            if tensors[index] in firsts:
                chosen.setdefault(tensors[index], index)
        if missed := sorted(firsts - chosen.keys()):
            raise UsageError(
                f"quantisers at {', '.join(missed)} have no place in {network}'s own operations",
                hint='set quantize.method = "ptq"',
            )
        return chosen

    def _calibrated(self, traced: fx.GraphModule, batches: list[Tensor]) -> fx.GraphModule:
        """The quantised module, its activations' scales initialised.

        The first forward passes in train mode gather percentiles, and one more turns those into scales: a copy of the
        module, or one that is loaded from a checkpoint, is then complete.
        """
        made = self._quantised(traced, self._never_negative(traced, batches), len(batches))
        made.train()
        with _frozen_norms(made), torch.no_grad():
            for batch in (*batches, batches[-1]):
                made(batch)
        return made.eval()

    def _never_negative(self, traced: fx.GraphModule, batches: list[Tensor]) -> set[int]:
        """The chosen nodes whose output is never below zero over ``batches``."""
        lows: dict[int, float] = {}
        watched = copy_of(traced)
        nodes = list(self._nodes(watched))

        def watch(index: int) -> Callable[[Tensor], Tensor]:
            def record(x: Tensor) -> Tensor:
                lows[index] = min(lows.get(index, 0.0), float(x.min()))
                return x

            return record

        for index in self._chosen.values():
            with watched.graph.inserting_after(nodes[index]):
                made = watched.graph.call_function(watch(index), (nodes[index],))
            insert_behind(nodes[index], made)
        runner = fx.Interpreter(watched)
        watched.eval()
        with torch.no_grad():
            for batch in batches:
                runner.run(batch)
        return {index for index, low in lows.items() if low >= 0}

    def _quantised(self, traced: fx.GraphModule, positive: set[int], gathering: int) -> fx.GraphModule:
        """A copy with quantisers of weights and of the chosen nodes; those in ``positive`` have the zero point 0.

        ``gathering`` is the number of forward passes that percentiles are gathered in.
        """
        made = copy_of(traced)
        for name, module in list(made.named_modules()):
            self._quantise_weight(made, name, module)
        nodes = list(self._nodes(made))
        for index in self._chosen.values():
            if self.rules.symmetric_activations:
                kind = Int8ActPerTensorFloat
            else:
                kind = Uint8ActPerTensorFloat if index in positive else ShiftedUint8ActPerTensorFloat
            name = _QUANTISER.format(index)
            made.add_module(name, QuantIdentity(act_quant=kind, collect_stats_steps=gathering))
            with made.graph.inserting_after(nodes[index]):
                call = made.graph.call_module(name, (nodes[index],))
            insert_behind(nodes[index], call)
        made.recompile()
        return made

    def _quantise_weight(self, made: fx.GraphModule, name: str, module: nn.Module) -> None:
        """Give the submodule ``name`` a quantiser of its weight, or put Brevitas's layer in its place."""
        weight = f"{name}.weight"
        if weight in self._float_weights:
            return
        if weight in self._learned:
            codebook = Codebook(module.weight, self._learned[weight], self._format.bucket_size)  # type: ignore[arg-type]
            parametrize.register_parametrization(module, "weight", codebook)
            module.parametrizations.weight.original.requires_grad_(False)  # type: ignore[union-attr]
        elif weight in self._parametrised:
            bits, bucket_size = self._bits[weight], self._format.bucket_size
            quantizer = BucketQuantizer(bits, bucket_size, stochastic=self._format.stochastic)
            parametrize.register_parametrization(module, "weight", quantizer)
        elif self._format.integer_kernels or weight in self._bits:
            layer = quant_layer(module, self.rules, self._bits.get(weight), self._format)
            if layer is not None:
                parent, _, child = name.rpartition(".")
                setattr(made.get_submodule(parent), child, layer)

    def _range(self, index: int) -> tuple[float, float]:
        """The lowest and the highest number that the integers of a chosen node stand for."""
        quantiser: Any = self.module.get_submodule(_QUANTISER.format(index)).act_quant
        scale, zero = float(quantiser.scale().detach()), float(quantiser.zero_point().detach())
        if self.rules.symmetric_activations:
            return -127 * scale, 127 * scale
        return -zero * scale, (255 - zero) * scale


def _no_floats(graph: ir.Model) -> frozenset[str]:
    return frozenset()


@contextlib.contextmanager
def _frozen_norms(module: nn.Module) -> Iterator[None]:
    """Normalisations keep their statistics and dropout is off, while the quantisers gather."""
    frozen = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.Dropout)]
    for each in frozen:
        each.eval()
    try:
        yield
    finally:
        for each in frozen:
            each.train(module.training)
