"""The affine quantisation parameters of activations: ``real = scale * (integer - zero_point)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.core import QdqRules
from compressor.lowering.graph import add_constant
from compressor.lowering.placement._operators import ACTIVATION_OPS

__all__ = ["TINY", "QParams", "storable_scale"]

TINY = np.finfo(np.float32).tiny
"""The least scale: below it kernels flush to zero, or divide by it."""
_LEAST_FP16 = np.float32(2.0**-20)
"""The least scale in half precision: below it a subnormal has fewer than four bits left."""
_INTEGER_RANGE = {"uint8": (0, 255), "int8": (-128, 127)}


@dataclass(frozen=True, slots=True)
class QParams:
    """Scale and zero point of an 8-bit tensor, as constants of the graph and as numbers."""

    scale: ir.Value
    zero_point: ir.Value
    step: float
    """The value of ``scale``."""
    low: float
    """The least number that the integers stand for; ``high`` is the largest."""
    high: float

    @classmethod
    def of_range(cls, graph: ir.Graph, name: str, low: float, high: float, rules: QdqRules) -> QParams:
        """Add the parameters for values from ``low`` to ``high`` (``low <= 0 <= high``) to ``graph``.

        Zero is always held exactly. A tensor that is zero throughout gets the scale 1.
        """
        bottom, top = _INTEGER_RANGE[rules.activation_dtype]
        middle = (bottom + top + 1) // 2
        if rules.symmetric_activations:
            scale, zero = storable_scale(np.float32(max(-low, high) / (top - middle)), rules.float_dtype), middle
        else:
            scale = np.float32((high - low) / (top - bottom))
            zero = int(np.clip(np.rint(bottom - low / scale), bottom, top)) if scale >= TINY else middle
        if not scale >= TINY:
            scale = np.float32(1)
        return cls(
            add_constant(graph, f"{name}_scale", np.asarray(scale)),
            add_constant(graph, f"{name}_zero_point", np.asarray(zero, np.dtype(rules.activation_dtype))),
            float(scale),
            float(scale) * (bottom - zero),
            float(scale) * (top - zero),
        )

    def of_channels(self, graph: ir.Graph, channels: int) -> tuple[ir.Value, ir.Value]:
        """The same scale and zero point once for each channel, as constants of ``graph``."""
        made = []
        for one in (self.scale, self.zero_point):
            assert one.const_value is not None
            name, repeated = f"{one.name}_of_{channels}", np.full(channels, one.const_value.numpy())
            made.append(graph.initializers.get(name) or add_constant(graph, name, repeated))
        return made[0], made[1]

    def clamp_like(self, node: ir.Node) -> bool:
        """Whether the integers' own saturation does all that this Relu or Clip does."""
        if node.op_type not in ACTIVATION_OPS:
            return False
        low, high = 0.0, np.inf
        if node.op_type == "Clip":
            given = (*node.inputs[1:], None, None)
            bounds = [ir.convenience.get_const_tensor(v) if v is not None else None for v in given]
            low = -np.inf if bounds[0] is None else float(bounds[0].numpy())
            high = np.inf if bounds[1] is None else float(bounds[1].numpy())
        # Rounding of the scale may put the last integer a hundredth of a step beyond the bound.
        return self.low >= low - 0.01 * self.step and self.high <= high + 0.01 * self.step


def storable_scale(scale: NDArray[np.float32] | np.float32, float_dtype: str) -> Any:
    """A scale as the graph stores it.

    In ``float16`` it is rounded up, so that the largest value still has an integer, and is at least 2^-20.
    """
    if float_dtype == "float32":
        return scale
    half = np.maximum(scale, _LEAST_FP16).astype(np.float16)
    half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)
    return half.astype(np.float32)[()]
