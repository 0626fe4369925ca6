"""Layers of Brevitas in the place of a network's own, with the same parameters."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from compressor.core import QdqRules
from compressor.quant.weight_spec import WeightFormat

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Brevitas's own deprecations
    from brevitas.nn import QuantConv2d, QuantConvTranspose2d, QuantLinear
    from brevitas.quant import Int8WeightPerChannelFloat, Int8WeightPerTensorFloat

__all__ = ["quant_layer"]

_OPS = {nn.Conv2d: "Conv", nn.ConvTranspose2d: "ConvTranspose", nn.Linear: "Gemm"}


def quant_layer(module: nn.Module, rules: QdqRules, bits: int | None, format: WeightFormat) -> nn.Module | None:
    """The layer of Brevitas that quantises the weights of ``module`` as the placement will; None for other modules.

    ``bits`` None are the rules' own. A transposed convolution has one scale for each channel of its weight's axis 1,
    which its groups share.
    """
    op = _OPS.get(type(module))
    if op is None or (format.integer_kernels and op not in rules.quantizable_ops):
        return None
    per_channel = op in rules.per_channel or not format.integer_kernels
    weight = Int8WeightPerChannelFloat if per_channel else Int8WeightPerTensorFloat
    if isinstance(module, nn.ConvTranspose2d) and per_channel:
        weight = weight.let(scaling_per_output_channel_shape=(1, module.weight.shape[1], 1, 1))
    if format.stochastic:
        weight = weight.let(float_to_int_impl=_StochasticRounding)
    twin = _twin(module, bias=module.bias is not None, weight_quant=weight, weight_bit_width=bits or rules.weight_bits)
    twin.weight, twin.bias = module.weight, module.bias
    return twin


def _twin(module: nn.Module, **settings: Any) -> nn.Module:
    made: nn.Module
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        settings |= {
            name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")
        }
    if isinstance(module, nn.ConvTranspose2d):
        settings |= {"output_padding": module.output_padding}
        made = QuantConvTranspose2d(module.in_channels, module.out_channels, module.kernel_size, **settings)
    elif isinstance(module, nn.Conv2d):
        made = QuantConv2d(module.in_channels, module.out_channels, module.kernel_size, **settings)
    else:
        assert isinstance(module, nn.Linear)
        made = QuantLinear(module.in_features, module.out_features, **settings)
    return made


class _StochasticRounding(nn.Module):
    """Rounding to either neighbouring integer in training, with the number itself as its expectation.

    Gradients go straight through. Brevitas's own class draws from a generator of its own, whose state a resumed
    training would not have.
    """

    def __init__(self) -> None:  # spelled out, because Brevitas reads the signature
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        rounded = torch.floor(x + torch.rand_like(x)) if self.training else x.round()
        return x + (rounded - x).detach()
