"""Checks of single values of manifest.json: each returns the value in its type, or names the key that is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from compressor.core import Signature, TensorSpec

__all__ = [
    "DamagedManifest", "checked_axes", "checked_file", "checked_list", "checked_map", "checked_number",
    "checked_ranges", "checked_size", "checked_specs", "checked_text",
]  # fmt: skip

_LARGEST_AXIS = 1 << 31


class DamagedManifest(ValueError):
    """A value that no manifest of this version has."""


def checked_map(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedManifest(f"{key} is no object with names, but {_shown(value)}")
    return value


def checked_list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise DamagedManifest(f"{key} is no list, but {_shown(value)}")
    return value


def checked_text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise DamagedManifest(f"{key} is no text, but {_shown(value)}")
    return value


def checked_number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DamagedManifest(f"{key} is no finite number, but {_shown(value)}")
    return float(value)


def checked_size(value: Any, key: str) -> int:
    """Read a whole number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST_AXIS:
        raise DamagedManifest(f"{key} is no size, but {_shown(value)}")
    return value


def checked_specs(document: Mapping[str, Any], key: str) -> tuple[TensorSpec, ...]:
    """Read ``inputs`` or ``outputs``: one or more entries with names of their own."""
    entries = [checked_map(entry, f"an entry of {key}") for entry in checked_list(document[key], key)]
    names = [checked_text(entry["name"], f"{key}.name") for entry in entries]
    if not names or len(set(names)) < len(names):
        raise DamagedManifest(f"{key} has no entries, or two of one name")
    return tuple(
        TensorSpec(name, _dtype(e["dtype"]), _shape(e["shape"])) for name, e in zip(names, entries, strict=True)
    )


def checked_axes(value: Any, signature: Signature) -> dict[str, int]:
    """Read ``sizes``, which has one for each free axis of the inputs."""
    sizes = {name: checked_size(size, f"sizes.{name}") for name, size in checked_map(value, "sizes").items()}
    if missing := [axis for axis in signature.free if not sizes.get(axis)]:
        raise DamagedManifest(f"sizes has none for the axis {missing[0]!r}")
    return sizes


def checked_ranges(value: Any) -> dict[str, tuple[int, int]]:
    """Read ``ranges``: the least and the most of axes, by name."""
    ranges = {}
    for axis, bounds in checked_map(value, "ranges").items():
        least, most = (checked_size(each, f"ranges.{axis}") for each in _pair(bounds, f"ranges.{axis}"))
        if not 0 < least <= most:
            raise DamagedManifest(f"ranges.{axis} is from {least} to {most}")
        ranges[axis] = (least, most)
    return ranges


def checked_file(name: str, value: Any) -> dict[str, Any]:
    """Read the entry of a file: its SHA-256 in hexadecimal digits, and its bytes."""
    entry = checked_map(value, f"files.{name}")
    if not re.fullmatch(r"[0-9a-f]{64}", checked_text(entry["sha256"], f"files.{name}.sha256")):
        raise DamagedManifest(f"files.{name}.sha256 is no SHA-256")
    return entry


def _pair(value: Any, key: str) -> list[Any]:
    pair = checked_list(value, key)
    if len(pair) != 2:
        raise DamagedManifest(f"{key} has {len(pair)} entries, not 2")
    return pair


def _dtype(value: Any) -> str:
    try:
        return str(np.dtype(checked_text(value, "dtype")))
    except TypeError as error:
        raise DamagedManifest(f"{_shown(value)} is no type of numbers") from error


def _shape(value: Any) -> tuple[int | str, ...]:
    return tuple(
        axis if isinstance(axis, str) else checked_size(axis, "shape") for axis in checked_list(value, "shape")
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
