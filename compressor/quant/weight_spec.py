"""How a network's weights are to be quantised, and what each of them gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compressor.core import Json

__all__ = ["BitAllocation", "WeightFormat", "WeightQuantSpec"]


@dataclass(frozen=True)
class WeightFormat:
    """How weights of a few bits are stored, and what computes with them."""

    integer_kernels: bool = True
    """Whether activations have 8 bits and kernels compute in integers; else both compute in float, with weights that
    are unpacked when the file is loaded."""
    bucket_size: int | None = None
    """So many consecutive weights have one scale (Polino et al. 2018: 256), which no integer kernel can run; with
    None each output channel has one."""
    stochastic: bool = False
    """Whether weights are rounded to either neighbour at random during training; afterwards always to the nearest."""

    @property
    def precision(self) -> str:
        """What the graph computes in: ``int8`` or ``fp32``."""
        return "int8" if self.integer_kernels else "fp32"


@dataclass(frozen=True)
class WeightQuantSpec:
    """The bits that a network's weights are to have."""

    bits: int = 8
    """Bits of all weights but those of the first and the last layer."""
    edge_bits: int = 8
    """Bits of the first layer's weights and of the last one's."""
    learned: bool = False
    """Whether weights of fewer than eight bits take learned points; else they are uniformly quantised."""
    byte_limit: int | None = None
    """The most bytes of the file: with it the bits of each weight are chosen by what they lose."""
    soft_budget: bool = False
    """Whether a byte limit that cannot be kept is dropped, without an error."""
    redistributed: bool = False
    """Whether the numbers of learned points differ by the weights' gradients, ``2**bits`` each on average."""
    format: WeightFormat = WeightFormat()

    def describe(self, kernel_bits: int) -> dict[str, Json]:
        """How weights are stored, for the report; ``kernel_bits`` is what integer kernels take of a weight."""
        scale = "output channel" if self.format.bucket_size is None else f"{self.format.bucket_size} weights"
        bits = min(self.bits, kernel_bits) if self.format.integer_kernels else self.bits
        return {"weight_bits": bits, "scale_for_each": scale, "computes_in": self.format.precision}


@dataclass(frozen=True)
class BitAllocation:
    """What each weight gets, by name: bits where it is uniformly quantised, else a number of learned points."""

    bits: Mapping[str, int] = field(default_factory=dict)
    points: Mapping[str, int] = field(default_factory=dict)
    format: WeightFormat = WeightFormat()
