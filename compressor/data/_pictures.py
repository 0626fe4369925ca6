"""Pictures as they are: any size, grey or coloured, with their transparency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from compressor.core import UsageError
from compressor.data._images import SUFFIXES, opaque
from compressor.data._stores import Folder, shown

__all__ = ["Picture", "pictures"]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image file, decoded."""

    where: str
    pixels: NDArray[np.uint8]
    """C x H x W, C being 1 or 3."""
    alpha: NDArray[np.uint8] | None
    """H x W, where not all is opaque."""
    oddities: tuple[str, ...]
    """What was done with it that its owner may not expect."""


def pictures(source: Path) -> Mapping[str, Callable[[], Picture]]:
    """An image file, or those of a folder and below it: what each one's PNG is to be called, and how to read it.

    Reading raises as decoding does, naming the file. Raises UsageError where there is none.
    """
    if source.is_file():
        folder, names = Folder(source.parent), [source.name]
    elif source.is_dir():
        folder = Folder(source)
        names = sorted(n for n in folder.files if n.rpartition(".")[2].lower() in SUFFIXES)
    else:
        raise UsageError(f"no such image or folder: {shown(str(source))}", hint="name a folder of images, or one image")
    if not names:
        kinds = ", ".join(f".{s}" for s in sorted(SUFFIXES))
        raise UsageError(f"{shown(str(source))} holds no images ({kinds})", hint="name a folder of images")
    plain = Counter(str(PurePosixPath(name).with_suffix(".png")) for name in names)

    def named(name: str) -> str:
        # Two files may differ in their suffix alone.
        png = str(PurePosixPath(name).with_suffix(".png"))
        return png if plain[png] == 1 else f"{name}.png"

    return {named(name): partial(_read, folder, name) for name in names}


def _read(folder: Folder, name: str) -> Picture:
    where = folder.where(name)
    return Picture(where, *opaque(folder.read(name), where))
