"""What an architecture consists of, layer by layer: no weight is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compressor.core import InputSpec, UsageError
from compressor.models._cost import Cost
from compressor.models._family import Architecture

_KEEP_SHAPES = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Dropout)
"""Modules that the tracing need not run: on the meta device they take longer than the convolutions."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution (square stride, padded to ``kernel // 2``) or a linear layer (a 1x1 kernel at 1x1 pixel)."""

    kind: Literal["conv", "linear"]
    inputs: int
    """Input channels, of all groups together."""
    outputs: int
    """Output channels."""
    kernel: tuple[int, int]
    """Height and width."""
    stride: int
    groups: int
    input_size: tuple[int, int]
    """Height and width of its feature map."""
    output_size: tuple[int, int]
    bias: bool

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self._weights + self.bias * self.outputs

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample."""
        return self._weights * prod(self.output_size)

    @property
    def _weights(self) -> int:
        return self.outputs * self.inputs // self.groups * prod(self.kernel)


def layers(architecture: Architecture, input: InputSpec) -> tuple[Layer, ...]:
    """The convolutions and linear layers of what ``architecture.build()`` makes, in the order that they run.

    Raises UsageError where the architecture takes another number of channels.
    """
    return _trace(architecture, input)[0]


def count(architecture: Architecture, input: InputSpec) -> Cost:
    """What `compressor.models._cost.cost` says of ``architecture.build()``, from the same tracing as `layers`.

    The parameters are all there are, those of batch normalisations among them.
    """
    return _trace(architecture, input)[1]


@dataclass(frozen=True, slots=True)
class Part:
    """One of the ``parts()`` of a network: stem, block or head."""

    description: str
    """What it consists of: parts with equal descriptions and shapes take the same time."""
    shape: tuple[int, ...]
    """Of its input, 1 x C x H x W."""


def parts(architecture: Architecture, input: InputSpec) -> tuple[Part, ...]:
    """The chain that ``architecture.build().parts()`` is, in the order that it runs."""
    return _trace(architecture, input)[2]


@lru_cache(maxsize=4096)
def _trace(architecture: Architecture, input: InputSpec) -> tuple[tuple[Layer, ...], Cost, tuple[Part, ...]]:
    if architecture.channels != input.channels:
        raise UsageError(
            f"an architecture for {architecture.channels} channels cannot take an input of {input}",
            hint="decode it for that input",
        )
    with torch.device("meta"):
        network = architecture.build().eval()
        x = torch.empty(1, *input.shape)
    found: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(_layer(module, inputs[0], output))

    for module in network.modules():
        if isinstance(module, _KEEP_SHAPES):
            module.forward = _same  # type: ignore[assignment, method-assign]
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    chain: list[Part] = []
    with torch.no_grad():
        for part in network.parts():  # type: ignore[operator]
            chain.append(Part(f"{type(part).__module__} {part!r}", tuple(x.shape)))
            x = part(x)
    params = sum(parameter.numel() for parameter in network.parameters())
    return tuple(found), Cost(params, sum(layer.macs for layer in found)), tuple(chain)


def _same(x: Tensor) -> Tensor:
    return x


def _layer(module: Any, x: Tensor, y: Tensor) -> Layer:
    biased = module.bias is not None
    if isinstance(module, nn.Linear):
        return Layer("linear", module.in_features, module.out_features, (1, 1), 1, 1, (1, 1), (1, 1), biased)
    height, width = module.kernel_size
    return Layer(
        kind="conv",
        inputs=module.in_channels,
        outputs=module.out_channels,
        kernel=(height, width),
        stride=module.stride[0],
        groups=module.groups,
        input_size=(x.shape[2], x.shape[3]),
        output_size=(y.shape[2], y.shape[3]),
        bias=biased,
    )
