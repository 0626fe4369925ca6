"""What a network costs, counted without running it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from compressor.core import InputSpec, UsageError


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters (buffers are none) and multiply-accumulates of one sample's convolutions and linear layers."""

    params: int
    macs: int


def cost(module: nn.Module, input: InputSpec) -> Cost:
    """Count on a copy on the meta device, where tensors have shapes and no values.

    Raises UsageError where the network cannot take such an input.
    """
    shadow = copy.deepcopy(module).to("meta").eval()
    macs = 0

    def add(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Linear):
            macs += output.numel() * layer.in_features
        elif isinstance(layer, _ConvNd):
            # A weight is used once at each output position, or, transposed, at each input position.
            positions = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
            macs += positions[0, 0].numel() * layer.weight.numel()

    for layer in shadow.modules():
        layer.register_forward_hook(add)
    try:
        with torch.no_grad():
            shadow(torch.empty(1, *input.shape, device="meta"))
    except Exception as error:  # a user's own network may raise anything
        raise UsageError(
            f"the network does not run on an input of {input}: {error}", mend="give the input it was made for: --input"
        ) from error
    return Cost(sum(p.numel() for p in shadow.parameters()), macs)
