"""Encodings of architectures: read what a user wrote, strictly; and take small steps from one to the next."""

from __future__ import annotations

import random
import reprlib
from collections.abc import Iterable, Mapping, Sequence

from compressor import catalog
from compressor.core import Json, UsageError

Kind = Sequence[tuple[str, Json]]
"""Changes of one kind, such as all that deepen one stage: each is a field and its new value."""

MOST_CHANNELS = 16_384
"""Channels of a layer, at most. Search spaces stop far below: this only keeps a slip of the pen from filling memory."""
MOST_BLOCKS = 256
"""Blocks in a row, at most, as `MOST_CHANNELS`."""


# -- reading ----------------------------------------------------------------------------------


def keys(family: str, encoding: Json, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Check that ``encoding`` is a mapping with all required keys and, besides them, only optional ones.

    Raises UsageError naming the first key that is missing or unknown.
    """
    if not isinstance(encoding, Mapping):
        raise UsageError(
            f"{family}: an architecture is no {type(encoding).__name__}",
            hint=f"write an object with {' and '.join(required)}",
        )
    for key in encoding:
        if key not in (*required, *optional):
            raise catalog.unknown(f"key of a {family} architecture", str(key)[:50], [*required, *optional])
    for key in required:
        if key not in encoding:
            raise UsageError(f"{family}: the architecture lacks {key!r}", hint=f"add {key}")


def whole(family: str, key: str, value: Json, most: int) -> int:
    """Return ``value``, a whole number from 1 to ``most``. Raises UsageError naming the key for anything else."""
    if type(value) is not int or not 1 <= value <= most:
        raise UsageError(f"{family}: {key} has {reprlib.repr(value)}", hint=f"{key} takes whole numbers, 1 to {most:,}")
    return value


def one_of(family: str, key: str, value: Json, known: Sequence[str]) -> str:
    """Return ``value``, one of the words in ``known``. Raises UsageError naming the key for anything else."""
    if value not in known:
        raise UsageError(f"{family}: {key} is {reprlib.repr(value)}", hint=f"{key} is one of {', '.join(known)}")
    return str(value)


def items(family: str, key: str, value: Json, least: int, most: int) -> Sequence[Json]:
    """Return ``value``, a list of ``least`` to ``most`` items. Raises UsageError naming the key for anything else."""
    if not isinstance(value, list | tuple):
        raise UsageError(f"{family}: {key} is no list, but {reprlib.repr(value)}", hint=f"write {key} as a list")
    if not least <= len(value) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise UsageError(f"{family}: {key} has {len(value):,} items", hint=f"give {key} {wanted}")
    return value


def wholes(family: str, key: str, value: Json, length: int, most: int) -> tuple[int, ...]:
    """Return a list of ``length`` whole numbers from 1 to ``most`` as a tuple. Raises UsageError naming the key."""
    return tuple(whole(family, key, item, most) for item in items(family, key, value, length, length))


# -- stepping ---------------------------------------------------------------------------------


def snap(value: float, unit: int, most: int) -> int:
    """Return the multiple of ``unit`` nearest to ``value``, among those from ``unit`` to ``most``."""
    return min(max(unit, int(value / unit + 0.5) * unit), most // unit * unit)


def snapped(values: Iterable[float], unit: int, most: int) -> tuple[int, ...]:
    """Return each of ``values``, snapped by `snap`."""
    return tuple(snap(value, unit, most) for value in values)


def steps(value: int, unit: int, most: int) -> tuple[list[int], list[int]]:
    """Return the multiples of ``unit`` that are one step below ``value``, and those one step above it.

    A step leads to the next multiple, or to one within a factor of 1.5, never beyond ``most``. ``value`` is a
    multiple itself. Every step can be taken back, and every multiple is reached by steps.
    """
    down, up = max(1, value // 3 // unit), max(1, value // 2 // unit)
    below = range(max(unit, value - down * unit), value, unit)
    return list(below), list(range(value + unit, min(value + up * unit, most) + 1, unit))


def varied(field: str, values: tuple[int, ...], unit: int, most: int) -> list[Kind]:
    """Return the `steps` of each of a field's values, down and up, while the other values stay."""
    return [
        [(field, (*values[:at], step, *values[at + 1 :])) for step in direction]
        for at, value in enumerate(values)
        for direction in steps(value, unit, most)
    ]


def chosen(random: random.Random, kinds: Iterable[Kind]) -> dict[str, Json]:
    """Draw one change, as ``dataclasses.replace`` takes it: first a kind that has any, then one of that kind."""
    field, value = random.choice(random.choice([kind for kind in kinds if kind]))
    return {field: value}
