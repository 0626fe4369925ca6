"""The form of a network that is exported, timed and quantised."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["deployed"]


def deployed(network: nn.Module) -> nn.Module:
    """Return ``network`` with each submodule that has a method ``deployed()`` replaced by what that returns.

    A block that is trained as parallel branches (RepVGG, Ding et al. 2021, arXiv 2101.03697) returns the one
    convolution that computes the same: ``deployed(self) -> nn.Module``, for eval mode, leaving ``self`` as it is.
    Other networks are returned as they are. The result shares no tensor with ``network`` where anything was replaced.
    Idempotent. The network may have the method itself; a name in its state dict may then change.
    """
    if not any(_method(module) for module in nn.Module.modules(network)):
        return network
    return _replaced(copy.deepcopy(network))


def _replaced(module: nn.Module) -> nn.Module:
    if (method := _method(module)) is not None:
        made: nn.Module = method(module)
        return made.train(module.training)
    for name, child in module.named_children():
        if (new := _replaced(child)) is not child:
            setattr(module, name, new)
    return module


def _method(module: nn.Module) -> Callable[[Any], nn.Module] | None:
    """The method as its class defines it: a user's network may have a flag of that name."""
    method = getattr(type(module), "deployed", None)
    return method if callable(method) else None
