"""Weights as they are stored: codes into a table of points, with a scale for each group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coded"]


@dataclass(frozen=True, eq=False)
class Coded:
    """A weight tensor of ``shape``: ``points[codes] * scale + low``, its last group cut to length."""

    codes: NDArray[np.uint8]
    """Groups x weights."""
    points: NDArray[np.float32]
    """At most 256, ascending."""
    scale: NDArray[np.float32]
    """Of each group."""
    low: NDArray[np.float32] | None
    """Of each group; None where all are 0."""
    shape: tuple[int, ...]

    @property
    def bits(self) -> int:
        """That a code needs where all are of one length."""
        return max(1, (len(self.points) - 1).bit_length())

    def decoded(self) -> NDArray[np.float32]:
        """The weights, in float32 arithmetic, as a runtime computes them from the packed graph."""
        rows = self.points[self.codes] * self.scale[:, None]
        if self.low is not None:
            rows = rows + self.low[:, None]
        return rows.reshape(-1)[: int(np.prod(self.shape))].reshape(self.shape).astype(np.float32)
