"""Samples in arrays: ``.npz`` files, scikit-learn's digits, and the user's own code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compressor.catalog import unknown
from compressor.core import InputSpec, UsageError
from compressor.data._images import Look, fit
from compressor.data._npz import read_arrays
from compressor.data._splits import Found, RawSplit

_MAX_CLASSES = 100_000
_LARGEST = 16 << 30
"""Bytes of an ``.npz``, unpacked: all of it is in memory."""
_BLOCK = 1 << 24
"""Floats that are converted at a time."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images of one size as `Samples`."""

    pixels: NDArray[np.uint8]
    """N x C x H x W, C being 1 or 3."""

    comparable = True

    @cached_property
    def keys(self) -> Sequence[str]:
        shape = "x".join(map(str, self.pixels.shape[1:]))
        return [f"{shape}:{hashlib.sha256(p.tobytes()).hexdigest()}" for p in self.pixels]

    def name(self, row: int) -> str:
        return str(row)

    def look(self, row: int) -> Look:
        return Look(*self.pixels.shape[1:])

    def check(self, rows: NDArray[np.int64]) -> None:
        """Arrays were checked when they were read."""

    def load(self, row: int, input: InputSpec) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = self.pixels[row]
        if pixels.shape == input.shape:
            return pixels
        return fit(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)), input)


def read_npz(path: Path) -> Found:
    """Read images ``x`` and labels ``y``, and ``x_test`` and ``y_test`` if they are there.

    Raises as `read_arrays` does.
    """
    arrays = read_arrays(path, ("x", "y"), _LARGEST, optional=("x_test", "y_test"))
    if len(arrays) == 3:
        raise UsageError(f"{path} has one of x_test and y_test only", hint="save both or none")
    return _found(path.name, str(path), list(arrays.values()))


def read_builtin(name: str) -> Found:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels, with the split that its users know."""
    if name != "digits":
        raise unknown("built-in data", name, ["digits", "photographs"])
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = np.rint(digits.images * 255 / 16).astype(np.uint8)[:, np.newaxis]
    y = digits.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=0, stratify=y)
    samples = Arrays(x)
    return Found(
        "digits",
        tuple(map(str, range(10))),
        RawSplit("digits train", samples, train, y[train]),
        RawSplit("digits test", samples, test, y[test]),
        ("digits has no halves of its own: scikit-learn's train_test_split (a fifth, stratified, seed 0) makes them",),
    )


def found_in(given: Any, source: str) -> Found:
    """Take what the user's ``package.module:callable`` returned: (x, y) or (x, y, x_test, y_test)."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 4):
        raise UsageError(
            f"{source} returned {type(given).__name__}, not (x, y), (x, y, x_test, y_test) or dicts of arrays",
            hint="return a tuple of two or four arrays, or yield a dict of arrays for each sample",
        )
    try:
        arrays = [np.asarray(a) for a in given]
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"{source} returned what is no array: {error}", hint="return NumPy arrays") from error
    return _found(source, source, arrays)


def _found(where: str, source: str, arrays: Sequence[NDArray[Any]]) -> Found:
    halves = []
    for suffix, x, y in zip(("", "_test"), arrays[::2], arrays[1::2], strict=False):
        pixels, labels = to_pixels(x, f"{source}: x{suffix}"), _labels(y, f"{source}: y{suffix}")
        if len(pixels) != len(labels):
            raise UsageError(
                f"{source}: x{suffix} has {len(pixels):,} samples, y{suffix} {len(labels):,}",
                hint="give one label a sample",
            )
        halves.append((pixels, labels))
    classes = tuple(map(str, range(1 + max(int(labels.max()) for _, labels in halves))))
    names = (f"{where} train", f"{where} test") if len(halves) == 2 else (where,)
    splits = [
        RawSplit(name, Arrays(pixels), np.arange(len(labels), dtype=np.int64), labels)
        for name, (pixels, labels) in zip(names, halves, strict=True)
    ]
    return Found(where, classes, splits[0], splits[1] if len(splits) == 2 else None)


def to_pixels(x: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """``x`` as N x C x H x W of 8 bits."""
    given = x.shape
    if x.ndim == 3:
        x = x[:, np.newaxis]
    elif x.ndim == 4 and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        raise UsageError(
            f"{where} has shape {given}", hint="it takes (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1 or 3"
        )
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise UsageError(f"{where} is of {x.dtype}", hint="it takes uint8, or floats in [0, 1]")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise UsageError(f"{where} has values from {low:g} to {high:g}", hint="it takes uint8, or floats in [0, 1]")
    pixels = np.empty(x.shape, np.uint8)
    step = max(1, _BLOCK // prod(x.shape[1:]))
    for n in range(0, len(x), step):  # or it would take its own memory twice over
        pixels[n : n + step] = np.rint(x[n : n + step] * 255)
    return pixels


def _labels(y: NDArray[Any], where: str) -> NDArray[np.int64]:
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or not len(y):
        raise UsageError(
            f"{where} has shape {y.shape} of {y.dtype}",
            hint="it takes one integer a sample, shape (N,); of one-hot rows that is y.argmax(1)",
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= _MAX_CLASSES:
        raise UsageError(f"{where} has labels from {low} to {high}", hint="number the classes 0, 1, 2, …")
    return y.astype(np.int64)
