"""Image files to pixels: decoding, and fitting to a network's input."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compressor.core import InputSpec, UsageError

SUFFIXES = frozenset({"jpg", "jpeg", "png", "bmp", "webp", "ppm"})
"""The image files that are read; all others are ignored and counted."""

EXACT_SIDE = 64
"""Up to this many pixels a side, an input is a whole small image; above, a crop of a photograph."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")


@dataclass(frozen=True, slots=True)
class Look:
    """What an image's header tells."""

    channels: int
    height: int
    width: int
    transparent: bool = False


def look(data: bytes, where: str) -> Look:
    """Read an image's header. Raises UsageError naming ``where`` if it is no image."""
    image = _open(data, where)
    # A palette may well be of greys, but is stored as colours.
    channels = 1 if image.mode in ("1", "L", "LA") or image.mode.startswith("I") else 3
    return Look(channels, image.height, image.width, image.has_transparency_data)


def decode(data: bytes, input: InputSpec, where: str) -> NDArray[np.uint8]:
    """Decode an image file to C x H x W of a network's input.

    EXIF orientation is ignored, as torchvision's ImageFolder ignores it.
    Raises UsageError naming ``where`` if the image is broken.
    """
    return fit(_open(data, where, pixels=True), input)


def fit(image: Image.Image, input: InputSpec) -> NDArray[np.uint8]:
    """Convert and resize to C x H x W.

    An image of the input's size is taken exactly. Otherwise inputs of up to 64 px are the
    whole image, resized; larger ones the centre crop of 224/256 of the short side, resized
    as torchvision resizes PIL images.
    """
    image = _converted(image, "L" if input.channels == 1 else "RGB")
    if image.size != (input.width, input.height):
        if max(input.height, input.width) <= EXACT_SIDE:
            image = image.resize((input.width, input.height), Image.Resampling.BICUBIC)
        else:
            image = _centre_crop(image, input.height, input.width)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[np.newaxis] if input.channels == 1 else pixels.transpose(2, 0, 1)


def _centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    cover_h, cover_w = round(height * 256 / 224), round(width * 256 / 224)
    if cover_w * image.height >= cover_h * image.width:
        size = (cover_w, cover_w * image.height // image.width)
    else:
        size = (cover_h * image.width // image.height, cover_h)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255 rather than scale
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _open(data: bytes, where: str, pixels: bool = False) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if pixels:
            image.load()
    except Exception as error:  # Pillow has a dozen kinds for broken bytes, SyntaxError among them
        raise UsageError(f"cannot decode {where}: {error}", mend="replace or remove this file") from error
    return image
