"""Images small enough to travel inside a report."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

__all__ = ["picture"]


def picture(pixels: NDArray[np.uint8], side: int) -> str:
    """A PNG in base64 of C x H x W pixels, shrunk to at most ``side`` pixels each way; never enlarged.

    Three channels are colours; of any other number the first is shown, as grey.
    """
    from PIL import Image

    planes = pixels if len(pixels) == 3 else pixels[:1].repeat(3, axis=0)
    image = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    (image if len(pixels) == 3 else image.convert("L")).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
