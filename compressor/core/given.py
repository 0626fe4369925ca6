"""What ``--input`` says of one input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.core.errors import UsageError
from compressor.core.images import InputSpec

__all__ = ["GivenInput"]

_FORM = re.compile(
    r"(?:(?P<name>[^=]+)=)?(?P<shape>\d+(?:\.\.\d+){0,2}(?:x\d+(?:\.\.\d+){0,2})*)(?::(?P<dtype>[a-z]+\d*))?"
)
_DTYPES = ("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
_LARGEST = 1 << 24
_LARGEST_IMAGE = 16384
"""Pixels of an image's side, and its channels."""


@dataclass(frozen=True, slots=True)
class GivenInput:
    """The size of one sample of an input: ``[NAME=]3x224x224[:DTYPE]``; an axis may be ``LEAST..USUAL..MOST``."""

    name: str | None
    shape: tuple[int, ...]
    """The usual sizes, without the sample's own axis."""
    bounds: tuple[tuple[int, int], ...]
    """The least and the most of each axis."""
    dtype: str | None

    @classmethod
    def parse(cls, text: str) -> GivenInput:
        """Read one ``--input``. Raises UsageError for anything else."""
        match = _FORM.fullmatch(text.strip())
        if match is None or (match["dtype"] not in (None, *_DTYPES)):
            raise UsageError(
                f"not an input size: {text!r}",
                hint="write CHANNELSxHEIGHTxWIDTH, such as 3x224x224, or NAME=SIZExSIZE:int64 of an input by its name",
            )
        shape, bounds = [], []
        for axis in match["shape"].split("x"):
            ends = [int(end) for end in axis.split("..")]
            least, most = ends[0], ends[-1]
            usual = ends[1] if len(ends) == 3 else most
            if not 1 <= least <= usual <= most <= _LARGEST:
                raise UsageError(f"not an input size: {text!r}", hint="write sizes of 1 or more, LEAST..USUAL..MOST")
            shape.append(usual)
            bounds.append((least, most))
        return cls(match["name"], tuple(shape), tuple(bounds), match["dtype"])

    @classmethod
    def parse_all(cls, texts: Sequence[str]) -> tuple[GivenInput, ...]:
        """Read all of ``--input``. Raises UsageError where one has no name beside others, or a name comes twice."""
        given = tuple(map(cls.parse, texts))
        names = [each.name for each in given]
        if len(given) > 1 and (None in names or len(set(names)) < len(names)):
            raise UsageError(
                "several --input need a name each", hint="write --input NAME=3x224x224 --input OTHER=77:int64"
            )
        return given

    @property
    def image(self) -> InputSpec | None:
        """Return the size as that of an image, if it has an image's rank and type. Raises UsageError if too large."""
        if len(self.shape) != 3 or self.dtype not in (None, "float32"):
            return None
        if max(self.shape) > _LARGEST_IMAGE:
            size = "x".join(map(str, self.shape))
            raise UsageError(
                f"not an input size: {size!r}", hint=f"an image has at most {_LARGEST_IMAGE} pixels a side"
            )
        return InputSpec(*self.shape)
