"""Parameters and multiply-accumulates of any network, counted while it runs once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from compressor.core import InputSpec, UsageError
from compressor.models.common.deployed import deployed


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters (without buffers), and multiply-accumulates of convolutions and matrix products for one sample."""

    params: int
    macs: int


def cost(module: nn.Module, input: InputSpec) -> Cost:
    """Count the cost of one image: see `cost_of_feeds`."""
    return cost_of_feeds(module, [(1, *input.shape)], ["float32"])


def cost_of_feeds(
    module: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    call: Callable[..., Any] = lambda module, tensors: module(*tensors),
) -> Cost:
    """Count for one sample, in eval mode and in the deployed form, by the formulas of torch's FlopCounterMode.

    ``call(module, tensors=...)`` runs the network.

    Nothing is computed where the module is on the meta device. Raises UsageError where the network does not run
    on such an input.
    """
    module = deployed(module)
    weights = [*module.parameters(), *module.buffers()]
    device = weights[0].device if weights else torch.device("cpu")
    feeds = [torch.zeros(s, dtype=getattr(torch, d), device=device) for s, d in zip(shapes, dtypes, strict=True)]
    training = module.training
    try:
        # Without gradients, or with fused attention, torch runs a transformer as operations that have no formula.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
            call(module.eval(), tensors=feeds)
    except Exception as error:  # a user's own network may raise anything
        told = ", ".join("x".join(map(str, shape[1:])) for shape in shapes)
        raise UsageError(
            f"the network does not run on inputs of {told}: {error}", hint="give the input it was made for: --input"
        ) from error
    finally:
        module.train(training)
    params = sum(p.numel() for p in module.parameters()) or _constants(module)
    # The formulas count a multiplication and an addition as two operations.
    return Cost(params, counter.operations // 2)


class _Counter(TorchDispatchMode):
    """A FlopCounterMode that does not import torch's compiler, which would take longer than the counting."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:
            with self:  # an operation that is made of others is counted as those
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        out = func(*args, **kwargs)
        self.operations += formula(*args, **kwargs, out_val=out)
        return out


def _constants(module: nn.Module) -> int:
    """Count the numbers in a TorchScript program whose weights were frozen into its code."""
    if not isinstance(module, torch.jit.ScriptModule):
        return 0
    graph: Any = module.inlined_graph  # its nodes live no longer than it
    nodes = [node for node in graph.findAllNodes("prim::Constant") if node.hasAttribute("value")]
    return sum(node.t("value").numel() for node in nodes if node.kindOf("value") == "t")
