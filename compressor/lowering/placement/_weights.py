"""Weights as integers: symmetric, one scale each output channel or each tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.lowering.placement._operators import bias_tensor
from compressor.lowering.placement._qparams import TINY

__all__ = ["least_scales", "project_points", "quantize_points", "quantize_symmetric"]

_BIAS_RANGE = 2**30
"""Half of what an int32 bias holds: the other half is left to the sum of products."""


def least_scales(node: ir.Node, step: float) -> NDArray[np.float64] | float:
    """The least weight scale with which the bias of ``node`` fits 32 bits, one for each channel of the weight's axis.

    ``step`` is the scale of the node's input. A channel whose weights are next to zero (training leaves such)
    would lose its bias otherwise. The groups of a transposed convolution share scales, so the largest bias counts.
    """
    bias = bias_tensor(node)
    if bias is None:
        return 0.0
    magnitude = np.abs(bias.numpy().astype(np.float64))
    magnitude = magnitude.reshape(-1, magnitude.shape[-1] if bias.shape.rank() else 1).max(axis=0)
    if node.op_type == "ConvTranspose":
        magnitude = magnitude.reshape(node.attributes.get_int("group", 1), -1).max(axis=0)
    least: NDArray[np.float64] = np.maximum(magnitude / _BIAS_RANGE, float(TINY)) / step
    return least


def quantize_symmetric(
    weight: NDArray[np.float32],
    bits: int,
    axis: int | None,
    least: NDArray[np.float64] | float,
    storable: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round ``weight`` to integers of ``bits``, the largest magnitude of a channel to ``2**(bits - 1) - 1``.

    ``axis`` is the channels' (None: one scale for all), ``least`` the least scales; ``storable`` makes a scale one
    that the graph can store. Returns the integers and the scales.
    """
    limit = 2 ** (bits - 1) - 1
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.max(np.abs(weight), axis=others, initial=0.0).astype(np.float64)
    scale = np.maximum(largest / limit, np.max(least) if axis is None else least).astype(np.float32)
    scale = storable(np.where(scale >= TINY, scale, np.float32(1)))
    column = scale if axis is None else np.expand_dims(scale, others or ())
    return np.clip(np.rint(weight / column), -limit, limit).astype(np.int8), scale


def project_points(points: NDArray[np.float32], bits: int) -> tuple[NDArray[np.float32], float]:
    """Round learned points to integers of ``bits``, which kernels run. Returns the integers and their one scale."""
    scale = max(float(np.max(np.abs(points))), float(TINY)) / (2 ** (bits - 1) - 1)
    return np.rint(points / scale), scale


def quantize_points(
    weight: NDArray[np.float32],
    points: NDArray[np.float32],
    bits: int,
    axis: int | None,
    least: NDArray[np.float64] | float,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a weight each channel of which is a multiple of ``points``, the learned point of each element.

    A channel that would need a scale below ``least`` is next to zero, and becomes zero. Returns the integers and
    the scales.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    integers, unit = project_points(points, bits)
    exact = points.astype(np.float64)
    product, norm = np.sum(weight * exact, axis=others), np.sum(exact**2, axis=others)
    factor = np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)
    floor = np.maximum(np.max(least) if axis is None else least, float(TINY))
    sign = np.where(np.abs(factor) * unit >= floor, np.sign(factor), 0)
    integers = integers * (sign if axis is None else np.expand_dims(sign, others))
    return integers.astype(np.int8), np.maximum(np.abs(factor) * unit, floor).astype(np.float32)
