"""Batch normalisations whose scales are not negative."""

from __future__ import annotations

import torch
from torch import fx, nn

__all__ = ["make_scales_positive"]


def make_scales_positive(network: nn.Module) -> None:
    """Move the sign of every normalisation's scale into the convolution before it; the network computes the same.

    Once the normalisation is folded in, each channel of the convolution's weights is then a positive multiple of
    what it was, and has no more distinct values. Changes ``network`` in place.
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
