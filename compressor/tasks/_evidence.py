"""What is known of a network and its data when its task is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.core import InputSpec, Signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.core.signature import Feeds, Outputs
    from compressor.data import AnySource

__all__ = ["Evidence"]


@dataclass(frozen=True)
class Evidence:
    """What a task may be chosen by."""

    signature: Signature
    image: InputSpec | None
    """The size of the one input, where that may be an image."""
    outputs: tuple[tuple[int, ...], ...]
    """The shapes of the outputs for one sample, the sample's axis included."""
    run: Callable[[Feeds], Outputs]
    """The network itself, in floats."""
    source: AnySource | None
    family: str | None
    """The task of its family, where it is of a known one."""
    named: bool = False
    """Whether the task was named by the user: then what does not fit is an error."""
    divisor: int = 1
    """What height and width must be divisible by."""

    @property
    def targets(self) -> str | None:
        """What the data has as targets; None without data."""
        return None if self.source is None else self.source.targets

    @property
    def upscale_factor(self) -> int | None:
        """How many times as high and wide as the image its one output is, of as many channels; None of any other."""
        if self.image is None or len(self.outputs) != 1 or len(self.outputs[0]) != 4:
            return None
        _, channels, height, width = self.outputs[0]
        factor, rest = divmod(height, self.image.height)
        whole = factor >= 1 and not rest and width == factor * self.image.width
        return factor if whole and channels == self.image.channels else None

    def run_images(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output for N x C x H x W."""
        outputs = self.run({self.signature.input.name: batch})
        first: NDArray[np.float32] = outputs[self.signature.output.name]
        return first
