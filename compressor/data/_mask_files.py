"""Mask files: PNGs whose pixels are class numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from compressor.core import UsageError
from compressor.data._folder import Files

__all__ = ["VOID", "MaskNumbers", "read_mask"]

VOID = 255
"""The number of pixels that do not count."""
_NAMED_VOID = frozenset({"void", "ignore", "ignored", "unlabelled", "unlabeled"})
_SCANNED = 300
"""Masks whose numbers are looked at before a run."""


@dataclass(frozen=True)
class MaskNumbers:
    """What the numbers in masks mean."""

    classes: tuple[str, ...]
    """The names of the classes, in the order of the numbers that a network's channels have."""
    table: tuple[int, ...]
    """For each of 256 values its class, `VOID` of what does not count, -1 of what must not be there."""
    note: str
    """For the report, where a number was taken for void or foreground; else empty."""

    @classmethod
    def of(cls, names: Sequence[str] | None, masks: Sequence[Files]) -> MaskNumbers:
        """Read the names of a ``classes.txt``, or the numbers in masks where there is none.

        255 and a class of the name void do not count, and neither does the number behind the last class. Masks that
        hold nothing but 0 and 255 are of a background and a foreground.
        """
        found = {value for files in masks for row in _spread(len(files.names)) for value in _values(files, row)}
        if found <= {0, VOID} and VOID in found and (names is None or len(names) <= 2):
            binary = tuple(names) if names is not None and len(names) == 2 else ("background", "foreground")
            return cls(binary, (0, *([-1] * 254), 1), "masks of 0 and 255 are of a background and a foreground")
        if names is None:
            most = max((value for value in found if value != VOID), default=0)
            names = [str(number) for number in range(most + 1)]
        if len(names) in found and 0 not in found:
            raise UsageError(
                f"the masks number classes from 1 to {len(names)}", hint="number them from 0, as channels are numbered"
            )
        table, classes = [-1] * 256, list[str]()
        for number, name in enumerate(names[:VOID]):
            table[number] = VOID if name.lower() in _NAMED_VOID else len(classes)
            classes += [] if table[number] == VOID else [name]
        note = ""
        if len(names) < VOID:
            behind = len(names) in found
            note = f"number {len(names)} of the masks is behind the last class: it does not count" if behind else ""
            table[len(names)] = VOID if behind else -1
        table[VOID] = VOID
        return cls(tuple(classes), tuple(table), note)

    @cached_property
    def _lookup(self) -> NDArray[np.int16]:
        return np.array(self.table, np.int16)

    def mask(self, files: Files, row: int) -> NDArray[np.uint8]:
        """Return the class of each pixel, H x W, `VOID` where it does not count.

        Raises UsageError naming the file where a number is no class's.
        """
        numbers = read_mask(files, row)
        classes = self._lookup[numbers]
        if (classes < 0).any():
            value = int(numbers[classes < 0][0])
            raise UsageError(
                f"{files.where(row)} has the number {value}, and there are {len(self.classes)} classes",
                hint=f"number classes from 0, name them in classes.txt, and give {VOID} to pixels that do not count",
            )
        return classes.astype(np.uint8)


def read_mask(files: Files, row: int) -> NDArray[np.uint8]:
    """Return the numbers of a mask, H x W. Raises UsageError naming the file where it holds colours or is broken."""
    where = files.where(row)
    try:
        with Image.open(io.BytesIO(files.read(row)), formats=("PNG", "BMP", "PPM")) as image:
            if image.mode in ("RGB", "RGBA", "CMYK", "LA", "F"):
                raise UsageError(
                    f"{where} holds colours, not class numbers", hint="write masks as PNG of one channel (or palette)"
                )
            numbers = np.asarray(image.convert("L") if image.mode == "1" else image)
    except UnidentifiedImageError as error:
        raise UsageError(
            f"cannot decode {where}: it is no PNG", hint="masks of other kinds lose their numbers: write PNG"
        ) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"cannot decode {where}: {error}", hint="replace or remove this file") from error
    if numbers.max(initial=0) > VOID:
        raise UsageError(f"{where} has numbers above {VOID}", hint="number classes from 0")
    return numbers.astype(np.uint8)


def _values(files: Files, row: int) -> set[int]:
    return set(np.unique(read_mask(files, row)).tolist())


def _spread(count: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, _SCANNED)).astype(int).tolist())) if count else []
