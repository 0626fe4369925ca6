"""Batch normalisations that never turn a channel's sign."""

from __future__ import annotations

import torch
from torch import fx, nn

__all__ = ["unsign"]


def make_scales_positive(network: nn.Module) -> None:
    """Make every normalisation behind a convolution multiply by no negative number; what is computed stays the same.

    The convolution takes the sign. A layer's weights, once its norm is folded into them, are then positive
    multiples of what they were, channel by channel, and have no more distinct levels.
    """
    traced = fx.symbolic_trace(network)
    modules = dict(network.named_modules())
    with torch.no_grad():
        for node in traced.graph.nodes:
            source = node.args[0] if node.op == "call_module" and node.args else None
            norm = modules.get(str(node.target)) if source is not None else None
            if not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, fx.Node) or norm.weight is None:
                continue
            layer = modules.get(str(source.target)) if source.op == "call_module" and len(source.users) == 1 else None
            if not isinstance(layer, nn.Conv2d):
                continue
            sign = torch.where(norm.weight < 0, -1.0, 1.0)
            layer.weight.mul_(sign[:, None, None, None])
            if layer.bias is not None:
                layer.bias.mul_(sign)
            norm.weight.mul_(sign)
            if norm.running_mean is not None:
                norm.running_mean.mul_(sign)
