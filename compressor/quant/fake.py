"""A network that computes in floats what its integers will: Brevitas layers where the target's rules want them."""

from __future__ import annotations

import contextlib
import copy
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
from compressor.quant.buckets import Buckets
from compressor.quant.codebook import Codebook
from compressor.quant.coded import Coded, code, coded
from compressor.quant.levels import Form, BitAllocation
from compressor.lowering.placement import Placement, project_points

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of deprecations within
    from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear
    from brevitas.quant import (
        Int8ActPerTensorFloat,
        Int8WeightPerChannelFloat,
        Int8WeightPerTensorFloat,
        ShiftedUint8ActPerTensorFloat,
        Uint8ActPerTensorFloat,
    )

__all__ = ["FakeQuantised"]

_QUANTISER = "quantiser_{}"


class FakeQuantised:
    """``network`` with the quantisers that `compressor.lowering.placement` will place, to be trained and then lowered.

    Where the quantisers go is asked of the placement itself: the network is exported once with a mark on
    every tensor, and those marks that lie on a grid's first tensor get one. Weights: symmetric, the
    largest magnitude of each channel (or tensor) on the last level; behind them batch normalisation
    stays as it is, as folding it into the weights only scales a channel and its grid alike. Activations:
    scale and zero point are learned, from the percentiles of ``batches`` on (Brevitas's defaults).
    ``floats`` names the nodes of a graph that stay in float; ``signature`` and ``sizes`` are those of the graphs.
    ``levels`` are those of the weights that have fewer than the rules' bits, or, where their form is not for
    integer kernels, of all weights: activations are then left as they are. For integer kernels a weight with
    learned points (`compressor.quant.codebook.Codebook`) needs a scale for each channel.
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
        levels: BitAllocation | None = None,
        floats: Callable[[ir.Model], frozenset[str]] | None = None,
    ) -> None:
        self.rules, self.signature, self.sizes, self.opset = rules, signature, sizes, opset
        levels = levels or BitAllocation()
        self._form = levels.form
        self._floats = floats or _no_floats
        traced = _traced(network)
        self._points = _points(traced)
        graph, names = self._exported(traced)
        kept = self._floats(graph) if self._form.integers else frozenset[str]()
        self._grids = Placement(graph, rules, kept).groups if self._form.integers else ()
        self._exact = {node.inputs[1].name for node in graph.graph if node.name in kept and len(node.inputs) > 1
                       and node.inputs[1] is not None and node.inputs[1].is_initializer()}  # fmt: skip
        self._bits = {name: bits for name, bits in levels.bits.items() if name not in self._exact}
        self._learned = {name: points for name, points in levels.points.items() if name not in self._exact}
        tensors = {grid[0]: grid for grid in self._grids}
        self._chosen: dict[str, int] = {}
        for index in sorted(names):
            if names[index] in tensors:
                self._chosen.setdefault(names[index], index)
        if missed := sorted(tensors.keys() - self._chosen.keys()):
            raise UsageError(
                f"quantisers at {', '.join(missed)} have no place in {type(network).__name__}'s own operations",
                hint='set quantize.method = "ptq"',
            )
        batches = list(batches)
        if not self._grids:  # nothing gathers
            self.module = self._quantised(traced, set(), 1).eval()
            return
        positive = self._positive(traced, batches)
        self.module = self._quantised(traced, positive, len(batches))
        # The first forward passes in train mode gather the activations' percentiles; norms keep their own.
        self.module.train()
        # The one after them turns those into scales: a copy of the module, or one that is restored, is then whole.
        with _still(self.module), torch.no_grad():
            for batch in (*batches, batches[-1]):
                self.module(batch)
        self.module.eval()

    def recalibrate(self, batches: Iterable[Tensor]) -> None:
        """Take the batch normalisations' statistics anew, as means over ``batches`` of quantised forward passes."""
        norms = [m for m in self.module.modules() if isinstance(m, nn.BatchNorm2d)]
        if not norms:
            return
        kept = [norm.momentum for norm in norms]
        self.module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for batch in batches:
                self.module(batch)
        self.module.eval()
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum

    def weights(self, like: nn.Module) -> dict[str, Tensor]:
        """The float weights under the network's own names, in its own precision and layout."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Brevitas calls torch in a way that is going out of use
            state = self.module.state_dict()
        state |= {name: self._holder(name).weight for name in self._parametrised}
        # What the network holds but never calls is not in the module: it stays as it was.
        return {name: state.get(name, tensor).detach().cpu().contiguous() for name, tensor in like.state_dict().items()}

    def lowered(self, network: nn.Module) -> tuple[ir.Model, ir.Model]:
        """The graphs of ``network`` (which has the trained weights): in float, and quantised on the learned grids.

        For float kernels weights are stored as codes already; for integer ones `compressor.lowering.packing.pack`
        does that.
        """
        exact, _ = self._exported(_traced(network))
        graph = ir.from_proto(ir.to_proto(exact))
        if not self._form.integers:
            code(graph, self._codes(), {name: each.detach().numpy() for name, each in network.state_dict().items()})
            return exact, graph
        ranges: dict[str, tuple[float, float]] = {}
        for grid in self._grids:
            low_high = self._range(self._chosen[grid[0]])
            ranges |= dict.fromkeys(grid, low_high)
        Placement(graph, self.rules, self._floats(graph)).apply(ranges, self._bits, self._shapes())
        return exact, graph

    def projection_db(self) -> float | None:
        """What learned points lose on the integers that the target runs: their signal to noise, over all weights.

        None where there are none, or where kernels are float and points stay as they are.
        """
        if not (self._form.integers and self._learned):
            return None
        signal = noise = 0.0
        for shape in self._shapes().values():
            levels, unit = project_points(shape, self.rules.weight_bits)
            signal += float(np.sum(shape.astype(np.float64) ** 2))
            noise += float(np.sum((levels * unit - shape.astype(np.float64)) ** 2))
        return 10 * math.log10(signal / noise) if signal and noise else None

    @property
    def _parametrised(self) -> tuple[str, ...]:
        """The weights whose layers are torch's own, with a parametrisation of ours; the others' are Brevitas's."""
        return tuple(self._learned) if self._form.bucket is None else (*self._learned, *self._bits)

    def _codes(self) -> dict[str, Coded]:
        found = {}
        for name in (*self._learned, *self._bits):
            holder = self._holder(name)
            given = holder.parametrizations.weight.original if name in self._parametrised else holder.weight
            book = holder.parametrizations.weight[0] if name in self._learned else None
            found[name] = coded(given, self._bits.get(name, 0), self._form.bucket, book)
        return found

    def _holder(self, name: str) -> Any:
        return self.module.get_submodule(name.rpartition(".")[0])

    def _shapes(self) -> dict[str, NDArray[np.float32]]:
        """Of the weights with learned points: which point each weight is, before its channel's scale."""
        found = {}
        for name in self._learned:
            learned = self._holder(name).parametrizations.weight
            codes, points = learned[0].codes(learned.original)
            found[name] = points[codes].reshape(learned.original.shape).cpu().numpy()
        return found

    # -- making ---------------------------------------------------------------------------------

    def _exported(self, traced: fx.GraphModule) -> tuple[ir.Model, dict[int, str]]:
        marked = _copy(traced)
        for index, node in enumerate(self._nodes(marked)):
            with marked.graph.inserting_after(node):
                made = marked.graph.call_function(mark, (node, index))
            _pass_through(node, made)
        marked.recompile()
        return export_marked(marked.eval(), self.signature, self.sizes, self.opset)

    def _nodes(self, traced: fx.GraphModule) -> Iterator[fx.Node]:
        by_name = {node.name: node for node in traced.graph.nodes}
        return (by_name[name] for name in self._points)

    def _positive(self, traced: fx.GraphModule, batches: list[Tensor]) -> set[int]:
        """Which of the chosen points were never below zero."""
        lows: dict[int, float] = {}
        watched = _copy(traced)
        nodes = list(self._nodes(watched))

        def watch(index: int) -> Callable[[Tensor], Tensor]:
            def seen(x: Tensor) -> Tensor:
                lows[index] = min(lows.get(index, 0.0), float(x.min()))
                return x

            return seen

        for index in self._chosen.values():
            with watched.graph.inserting_after(nodes[index]):
                made = watched.graph.call_function(watch(index), (nodes[index],))
            _pass_through(nodes[index], made)
        runner = fx.Interpreter(watched)
        watched.eval()
        with torch.no_grad():
            for batch in batches:
                runner.run(batch)
        return {index for index, low in lows.items() if low >= 0}

    def _quantised(self, traced: fx.GraphModule, positive: set[int], gathering: int) -> fx.GraphModule:
        made = _copy(traced)
        for name, module in list(made.named_modules()):
            weight = f"{name}.weight"
            if weight in self._exact:
                continue
            if weight in self._learned:
                book = Codebook(module.weight, self._learned[weight], self._form.bucket)
                parametrize.register_parametrization(module, "weight", book)
                module.parametrizations.weight.original.requires_grad_(False)
            elif weight in self._parametrised:
                grid = Buckets(self._bits[weight], self._form.bucket, stochastic=self._form.stochastic)
                parametrize.register_parametrization(module, "weight", grid)
            elif not self._form.integers and weight not in self._bits:
                continue
            elif (layer := _layer(module, self.rules, self._bits.get(weight), self._form)) is not None:
                parent, _, child = name.rpartition(".")
                setattr(made.get_submodule(parent), child, layer)
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
            _pass_through(nodes[index], call)
        made.recompile()
        return made

    def _range(self, index: int) -> tuple[float, float]:
        """The lowest and the highest number that the grid at a point holds."""
        quantiser: Any = self.module.get_submodule(_QUANTISER.format(index)).act_quant
        scale, zero = float(quantiser.scale().detach()), float(quantiser.zero_point().detach())
        if self.rules.symmetric_activations:
            return -127 * scale, 127 * scale
        return -zero * scale, (255 - zero) * scale


def _no_floats(graph: ir.Model) -> frozenset[str]:
    return frozenset()


def _traced(network: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(network)
    except Exception as error:  # whatever the network's own code says to a proxy
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{type(network).__name__} cannot be traced for quantisation-aware training: {reason}",
            hint='set quantize.method = "ptq", or make its forward traceable by torch.fx',
        ) from error


def _copy(traced: fx.GraphModule) -> fx.GraphModule:
    return copy.deepcopy(traced)


def _pass_through(node: fx.Node, through: fx.Node) -> None:
    """Give the readers of ``node`` what ``through`` makes of it."""
    node.replace_all_uses_with(through, delete_user_cb=lambda user: user is not through)


def _points(traced: fx.GraphModule) -> tuple[str, ...]:
    """The nodes that may be quantised: all that give a tensor of activations, but what a norm alone reads.

    The exporter folds such a norm into the layer before it.
    """
    modules = dict(traced.named_modules())

    def norm(node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(modules[str(node.target)], nn.BatchNorm2d)

    return tuple(
        node.name
        for node in traced.graph.nodes
        if node.op in ("placeholder", "call_module", "call_function", "call_method")
        and not (len(node.users) == 1 and norm(next(iter(node.users))))
    )


class _Stochastic(nn.Module):
    """To either integer beside, its expectation the number itself, in training; gradients go straight through.

    Brevitas's own draws from a generator of its own, which a training that is taken up again would not find.
    """

    def __init__(self) -> None:  # spelled out: Brevitas looks at the arguments
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        rounded = torch.floor(x + torch.rand_like(x)) if self.training else x.round()
        return x + (rounded - x).detach()


def _layer(module: nn.Module, rules: QdqRules, bits: int | None, form: Form) -> nn.Module | None:
    """The Brevitas twin of a layer with weights, holding the same parameters; None for any other module."""
    op = {nn.Conv2d: "Conv", nn.Linear: "Gemm"}.get(type(module))
    if op is None or (form.integers and op not in rules.quantizable_ops):
        return None
    channels = op in rules.per_channel or not form.integers
    weight = Int8WeightPerChannelFloat if channels else Int8WeightPerTensorFloat
    if form.stochastic:
        weight = weight.let(float_to_int_impl=_Stochastic)
    said = {"bias": module.bias is not None, "weight_quant": weight, "weight_bit_width": bits or rules.weight_bits}
    twin: Any
    if isinstance(module, nn.Conv2d):
        twin = QuantConv2d(
            module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding,
            module.dilation, module.groups, padding_mode=module.padding_mode, **said,
        )  # fmt: skip
    else:
        assert isinstance(module, nn.Linear)
        twin = QuantLinear(module.in_features, module.out_features, **said)
    twin.weight, twin.bias = module.weight, module.bias
    made: nn.Module = twin
    return made


@contextlib.contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Norms keep their statistics and nothing is dropped, while the quantisers gather."""
    still = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.Dropout)]
    for each in still:
        each.eval()
    try:
        yield
    finally:
        for each in still:
            each.train(module.training)
