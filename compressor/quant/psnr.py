"""How close images are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["psnr"]


def psnr(expected: Sequence[NDArray[np.float32]], images: Sequence[NDArray[np.float32]]) -> float:
    """Return the peak signal-to-noise ratio in dB of images in [0, 1], from the mean of their errors; at most 200."""
    errors = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(expected, images, strict=True)]
    return min(200.0, -10 * float(np.log10(max(float(np.mean(errors)), 1e-20))))
