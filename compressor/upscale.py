"""Enlarge images of any size by a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compressor.atomic import partial, refusals
from compressor.bundle import verify_bundle
from compressor.bundle.runner import Model
from compressor.core import CompressError, Progress, UsageError
from compressor.data import Picture, pictures

__all__ = ["Upscaled", "upscale"]


@dataclass(frozen=True, slots=True)
class Upscaled:
    """The result of `upscale`."""

    scale: int
    made: tuple[Path, ...]
    notes: tuple[str, ...]
    """Conversions that the images' owner may not expect, such as from 16 bits to 8."""
    failed: tuple[str, ...]
    """For each image that was left out: its name and the reason."""


def upscale(
    bundle: Path,
    source: Path,
    out: Path,
    *,
    threads: int = 1,
    overlap: int = 32,
    most: int = 1 << 18,
    progress: Progress,
) -> Upscaled:
    """Enlarge an image, or all those in a folder and below it, to PNGs of the same names in ``out``.

    Grey images stay grey. Transparency is enlarged bicubically. 16 bits become 8. An image that cannot be read is left
    out, and named in the result. An image of more than ``most`` pixels is enlarged in tiles that overlap by
    ``overlap`` pixels (`compressor.bundle.runner.cropped`).
    Raises UsageError where there are no images or ``out`` cannot be written, and what `verify_bundle` raises.
    """
    folder = verify_bundle(bundle).path
    model = Model(folder, threads)
    if model.scale is None:
        raise UsageError(f"{bundle} holds a classifier", hint="name a bundle for super-resolution")
    if min(threads, most) < 1 or overlap < 0:
        raise UsageError("a number is too low", hint="give 1 thread, 1 pixel, and an overlap of 0, or more")
    found = pictures(source)
    if out.resolve() == source.resolve():
        raise UsageError(f"{out} is where the images come from", hint="name another folder for the results")
    made: list[Path] = []
    notes: list[str] = []
    failed: list[str] = []
    channels = model.image_size[2]
    for number, (name, read) in enumerate(found.items()):
        progress(f"upscaling {name}", number, len(found))
        path = out / name
        try:
            picture = read()
            image = _enlarged(model, picture, channels, overlap, most)
        except CompressError as error:
            failed.append(error.what)
            continue
        with refusals(out):
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(partial(path), "PNG")
            partial(path).replace(path)
        made.append(path)
        notes += [f"{name} {oddity}" for oddity in picture.oddities]
    progress("upscaling", len(found), len(found))
    return Upscaled(model.scale, tuple(made), tuple(notes), tuple(failed))


def _enlarged(model: Model, picture: Picture, channels: int, overlap: int, most: int) -> Image.Image:
    grey = picture.pixels.shape[0] == 1
    pixels = picture.pixels.transpose(1, 2, 0)
    if grey and channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)
    elif channels == 1 and not grey:
        raise UsageError(f"{picture.where} is coloured, and the model is for grey images", hint="convert it")
    made: NDArray[np.uint8] = model.enlarge(np.ascontiguousarray(pixels), overlap, most)
    image = Image.fromarray(made[:, :, 0] if made.shape[2] == 1 else made)
    if grey:
        image = image.convert("L")
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha).resize(image.size, Image.Resampling.BICUBIC))
    return image
