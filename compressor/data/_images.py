"""Image files to pixels: decoding, and fitting to a network's input."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from compressor.core import CompressError, InputSpec, UnsafeInput, UsageError

SUFFIXES = frozenset({"jpg", "jpeg", "png", "bmp", "webp", "ppm", "pgm"})
"""The image files that are read; all others are ignored and counted."""

EXACT_SIDE = 64
"""Up to this many pixels a side, an input is a whole small image; above, a crop of a photograph."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
_MOST_PIXELS = 1 << 26
"""8,192 x 8,192: decoded, and made opaque, they take most of a gigabyte."""
_ORIENTATION = 0x0112

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Look:
    """What an image's header tells."""

    channels: int
    height: int
    width: int
    oddities: tuple[str, ...] = ()
    """What is done with it that its owner may not expect; "3 images ..." goes before."""


def look(data: bytes, where: str) -> Look:
    """Read an image's header. Raises as `decode` does."""
    with _image(data, where) as image:
        # A palette may well be of greys, but is stored as colours.
        channels = 1 if image.mode in ("1", "L", "LA") or image.mode.startswith("I") else 3
        return Look(channels, image.height, image.width, tuple(_oddities(image)))


def decode(data: bytes, input: InputSpec, where: str) -> NDArray[np.uint8]:
    """Decode an image file to C x H x W of a network's input.

    EXIF orientation is ignored, as torchvision's ImageFolder ignores it. Raises, naming ``where``, UsageError if
    the image is broken, and UnsafeInput if it claims more pixels than any sample has.
    """
    with _image(data, where) as image:
        return fit(image, input)


def whole(data: bytes, channels: int, where: str) -> NDArray[np.uint8]:
    """Decode an image file to C x H x W at its own size. Raises as `decode` does."""
    with _image(data, where) as image:
        pixels = np.asarray(_converted(image, "L" if channels == 1 else "RGB"), dtype=np.uint8)
    return pixels[np.newaxis] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def opaque(data: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, tuple[str, ...]]:
    """Decode an image file at its own size: C x H x W (1 where it is grey), H x W of alpha or None, and oddities.

    Raises as `decode` does.
    """
    with _image(data, where) as image:
        odd = tuple(o.replace("are ", "is ", 1) for o in _oddities(image) if "transparency" not in o)
        grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
        alpha = None
        if image.has_transparency_data and not image.mode.startswith("I"):
            image = image.convert("RGBA")
            alpha = np.asarray(image.getchannel("A"), dtype=np.uint8)
            image = image.convert("RGB")  # the colours beneath, as they are stored
        pixels = np.asarray(_converted(image, "L" if grey else "RGB"), dtype=np.uint8)
    return pixels[np.newaxis] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1)), alpha, odd


def looks_whole(data: bytes) -> bool:
    """Whether both ends of an image file are as they should be; of some kinds of file it cannot be told."""
    return (
        (data.startswith(_JPEG) and data.endswith(b"\xff\xd9"))
        or (data.startswith(_PNG) and data.endswith(b"IEND\xaeB`\x82"))
        or (data.startswith(b"RIFF") and int.from_bytes(data[4:8], "little") + 8 == len(data))
    )


def check(data: bytes, where: str) -> None:
    """Decode an image and drop it. Raises as `decode` does."""
    with _image(data, where) as image:
        image.load()


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
        wide = np.asarray(image).clip(0, 65535).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _oddities(image: Image.Image) -> Iterator[str]:
    if image.mode.startswith("I"):
        yield "are of 16 bits: scaled to 8"
    if image.mode == "CMYK":
        yield "are CMYK: converted to RGB"
    if image.has_transparency_data:
        yield "have transparency: composited on white"
    if getattr(image, "is_animated", False):
        yield "are animated: their first frame is taken"
    # A PNG's comes after its pixels, which are not decoded for it.
    if image.format in ("JPEG", "WEBP") and image.getexif().get(_ORIENTATION, 1) != 1:
        yield "have an EXIF orientation: ignored, as torchvision's ImageFolder does"


@contextmanager
def _image(data: bytes, where: str) -> Iterator[Image.Image]:
    """An image, not decoded yet; whatever is found to be wrong with it is told by its name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > _MOST_PIXELS:
                raise Image.DecompressionBombError(f"{image.width:,} x {image.height:,} pixels")
            if image.mode == "F":
                raise ValueError("its pixels are floating-point numbers, whose range is not known")
            yield image
    except (CompressError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        held = f"it is no {', '.join(_FORMATS)}" if data else "it is empty"
        raise UsageError(f"cannot decode {where}: {held}", hint="replace or remove this file") from error
    except Image.DecompressionBombError as error:
        raise UnsafeInput(f"{where} claims too many pixels: {error}", hint="shrink or remove this file") from error
    except Exception as error:  # Pillow has a dozen kinds for broken bytes, SyntaxError among them
        raise UsageError(f"cannot decode {where}: {error}", hint="replace or remove this file") from error
