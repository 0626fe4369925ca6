"""What a network costs, counted as it runs once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from compressor.core import InputSpec, UsageError


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters (buffers are none) and multiply-accumulates of one sample's convolutions and matrix products."""

    params: int
    macs: int


def cost(module: nn.Module, input: InputSpec) -> Cost:
    """Count by torch's own formulas, of one sample, in eval mode; on the meta device where the module is there.

    Raises UsageError where the network cannot take such an input.
    """
    weights = [*module.parameters(), *module.buffers()]
    sample = torch.zeros(1, *input.shape, device=weights[0].device if weights else "cpu")
    training = module.training
    try:
        # With gradients and plain attention: else torch fuses a transformer into operations that have no formula.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
            module.eval()(sample)
    except Exception as error:  # a user's own network may raise anything
        raise UsageError(
            f"the network does not run on an input of {input}: {error}", hint="give the input it was made for: --input"
        ) from error
    finally:
        module.train(training)
    params = sum(p.numel() for p in module.parameters()) or _constants(module)
    # The formulas count a multiplication and an addition as two operations.
    return Cost(params, counter.operations // 2)


class _Counter(TorchDispatchMode):
    """As torch's FlopCounterMode, without the compiler: importing that takes longer than all else here."""

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
            with self:  # what consists of other operations is counted as those
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        out = func(*args, **kwargs)
        self.operations += formula(*args, **kwargs, out_val=out)
        return out


def _constants(module: nn.Module) -> int:
    """The numbers in a TorchScript program whose weights were frozen into its code."""
    if not isinstance(module, torch.jit.ScriptModule):
        return 0
    graph: Any = module.inlined_graph  # its nodes live no longer than it
    nodes = [node for node in graph.findAllNodes("prim::Constant") if node.hasAttribute("value")]
    return sum(node.t("value").numel() for node in nodes if node.kindOf("value") == "t")
