"""The size of an image input, and how 8-bit pixels become its values."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.core.errors import UsageError

__all__ = ["InputSpec", "Normalization"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The shape of one sample: channels, height and width in pixels."""

    channels: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """Read ``3x224x224``. Raises UsageError for anything else."""
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(p.isdecimal() and 0 < int(p) <= 16384 for p in parts):
            raise UsageError(
                f"not an input size: {text!r}",
                hint="write CHANNELSxHEIGHTxWIDTH, such as 3x224x224",
            )
        return cls(*(int(p) for p in parts))

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.height, self.width)

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True, slots=True)
class Normalization:
    """How 8-bit pixels become a network's input: ``(pixel * scale - mean) / std`` per channel, then order and layout.

    ``scale`` is 1/255 for networks that think in [0, 1] and 1 for those that think in 0-255.
    """

    name: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str = "rgb"
    """The order of colours that the network takes: ``rgb`` or ``bgr``; ``mean`` and ``std`` are of red, green, blue."""
    layout: str = "nchw"
    """``nchw`` or ``nhwc``: where the network has its channels."""

    @property
    def range(self) -> tuple[float, float]:
        """The range of the scaled pixels before mean and std."""
        return (0.0, 255.0 * self.scale)
