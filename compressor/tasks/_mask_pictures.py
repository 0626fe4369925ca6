"""Masks as small pictures: each class a colour of its own lightness, so that they tell apart without colour too."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from compressor.tasks._picture import picture

__all__ = ["mask_picture"]

_HUES = 0.61803398875
"""The golden section: hues that follow each other lie far apart."""


def mask_picture(mask: NDArray[np.integer], classes: int, side: int) -> str:
    """A PNG in base64 of an H x W mask, shrunk to at most ``side`` pixels each way; 255 is black."""
    height, width = mask.shape
    step = max(1, -(-max(height, width) // side))
    small = mask[step // 2 :: step, step // 2 :: step].astype(np.int64)  # nearest: classes do not blend
    colours = np.zeros((256, 3), np.uint8)
    for number in range(classes):
        colours[number] = _colour(number, max(1, classes - 1))
    return picture(np.ascontiguousarray(colours[np.clip(small, 0, 255)].transpose(2, 0, 1)), side)


def _colour(number: int, last: int) -> tuple[int, int, int]:
    lightness = 0.2 + 0.7 * number / last
    red, green, blue = colorsys.hls_to_rgb((number * _HUES) % 1.0, lightness, 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)
