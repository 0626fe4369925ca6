"""Where QuantizeLinear and DequantizeLinear go: one algorithm, and a rules table for each runtime."""

from compressor.lowering.placement._placement import Placement
from compressor.lowering.placement._weights import project_points

__all__ = ["Placement", "project_points"]
