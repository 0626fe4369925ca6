"""Images in arrays, fitted to a network's input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compressor.core import InputSpec
from compressor.data._arrays import Arrays, to_pixels

__all__ = ["fit_images"]


def fit_images(images: ArrayLike, channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Convert images to N x C x H x W of 8 bits, as a data source prepares its samples.

    ``images`` are 8-bit or floats in [0, 1], one (H x W, H x W x C) or many (N x H x W, N x H x W x C,
    N x C x H x W). ``size`` is the height and width to resize to; None keeps the images' own. Raises UsageError for
    anything else.
    """
    given: NDArray[Any] = np.asarray(images)
    if given.ndim == 2 or (given.ndim == 3 and given.shape[2] in (1, 3)):
        given = given[np.newaxis]
    samples = Arrays(to_pixels(given, "images"))
    height, width = size or samples.pixels.shape[2:]
    spec = InputSpec(channels, height, width)
    return np.stack([samples.load(row, spec) for row in range(len(samples.pixels))])
