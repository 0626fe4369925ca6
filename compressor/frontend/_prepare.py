"""A module of the user's, made fit for the passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.core import UsageError
from compressor.modules import state_dict, tame

__all__ = ["prepare"]


def prepare(module: nn.Module, whose: str) -> nn.Module:
    """Bring a module to the CPU, to float32 and to eval mode, and make torch's own functions work on it.

    Raises UsageError where its state is not all tensors, or an attribute stands in a method's place.
    """
    tame(module, whose)
    if any(not isinstance(t, Tensor) or nn.parameter.is_lazy(t) for t in state_dict(module).values()):
        raise UsageError(
            f"{whose} has lazy layers, or state that is no tensor",
            hint="give its layers their input sizes, and keep what is no tensor out of its state dict",
        )
    module.to("cpu", torch.float32)
    module.eval()
    return module
