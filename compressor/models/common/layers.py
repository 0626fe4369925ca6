"""The layers, the cost and the parts of a network in its deployed form, found by running it once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compressor.core import InputSpec, UsageError
from compressor.models.common.cost import Cost, cost
from compressor.models.common.deployed import deployed
from compressor.models.common.family import Architecture, Buildable

_KEEP_SHAPES = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Dropout)
"""Modules that tracing does not run: on the meta device they take longer than the convolutions."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution (square stride, padded to ``kernel // 2``) or a linear layer (a 1x1 kernel).

    The size of a linear layer is 1x1 on vectors, 1xT on T tokens, HxW on maps whose channels come last.
    """

    kind: Literal["conv", "linear"]
    inputs: int
    """Input channels of all groups together."""
    outputs: int
    """Output channels."""
    kernel: tuple[int, int]
    """Height and width."""
    stride: int
    groups: int
    input_size: tuple[int, int]
    """Height and width of its input."""
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


def layers(network: Buildable, input: InputSpec) -> tuple[Layer, ...]:
    """Return the convolutions and linear layers of a network's deployed form, in the order that they run.

    Raises UsageError where the network does not take such an input.
    """
    return _trace(network, input)[0]


def count(network: Buildable, input: InputSpec) -> Cost:
    """Return the same as `compressor.models.common.cost.cost` for ``network.build()``.

    The parameters include those of batch normalisations. No weight is allocated for the families of ``models/``.
    """
    return _trace(network, input)[1]


@dataclass(frozen=True, slots=True)
class Part:
    """One of the ``parts()`` of a network: stem, block or head."""

    description: str
    """Its modules and their settings. Parts with equal descriptions and shapes take the same time."""
    shape: tuple[int, ...]
    """The shape of its input, 1 x C x H x W."""


def parts(architecture: Architecture, input: InputSpec) -> tuple[Part, ...]:
    """Return the ``parts()`` of an architecture's deployed form, in the order that they run. No weight is allocated."""
    return _trace(architecture, input)[2]


@lru_cache(maxsize=4096)
def _trace(buildable: Buildable, input: InputSpec) -> tuple[tuple[Layer, ...], Cost, tuple[Part, ...]]:
    if (channels := getattr(buildable, "channels", input.channels)) != input.channels:
        raise UsageError(
            f"an architecture for {channels} channels cannot take an input of {input}",
            hint="decode it for that input",
        )
    with torch.device("meta"):
        network = deployed(buildable.build().eval())
    found: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(_layer(module, inputs[0], output))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    if next((each.device.type for each in network.parameters()), "cpu") != "meta":
        # A network that computes with values may multiply outside of its layers, as attention does.
        counted = cost(network, input)
        return tuple(found), counted, ()
    chain = _run_chain(network, torch.empty(1, *input.shape, device="meta"))
    params = sum(parameter.numel() for parameter in network.parameters())
    return tuple(found), Cost(params, sum(layer.macs for layer in found)), chain


def _run_chain(network: nn.Module, x: Tensor) -> tuple[Part, ...]:
    """Run the parts of a family's network on the meta device, and return them."""
    for module in network.modules():
        if isinstance(module, _KEEP_SHAPES):
            module.forward = _same  # type: ignore[assignment, method-assign]
    chain: list[Part] = []
    with torch.no_grad():
        for part in network.parts():  # type: ignore[operator]
            chain.append(Part(f"{type(part).__module__} {part!r}", tuple(x.shape)))
            x = part(x)
    return tuple(chain)


def _same(x: Tensor) -> Tensor:
    return x


def _layer(module: Any, x: Tensor, y: Tensor) -> Layer:
    biased = module.bias is not None
    if isinstance(module, nn.Linear):
        size = (x.shape[1], x.shape[2]) if x.ndim == 4 else (1, prod(x.shape[1:-1]))
        return Layer("linear", module.in_features, module.out_features, (1, 1), 1, 1, size, size, biased)
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
