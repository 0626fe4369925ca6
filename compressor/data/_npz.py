"""Arrays from an ``.npz`` that may be hostile: its claims are read first, and nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from compressor.core import CompressError, UnsafeInput, UsageError

_RATIO, _PLAIN = 100, 256 << 20
"""Deflated arrays of more than so many bytes may not be this many times smaller in the file."""

_MEND = "save plain numeric arrays with numpy.savez(file, x=images, y=labels)"


class Pickled(UnsafeInput):
    """An array of Python objects: in the file it is a pickle."""


def read_arrays(
    path: Path, names: Sequence[str], most: int, optional: Sequence[str] = ()
) -> Mapping[str, NDArray[Any]]:
    """The arrays ``names`` of an ``.npz``, and those of ``optional`` that it has; at most ``most`` bytes in all.

    Raises UnsafeInput for arrays that claim more than the file holds, unpack to far more or are `Pickled`, and
    UsageError for a file that cannot be read, or lacks one of ``names``.
    """
    return _read_arrays(path, lambda held: [*names, *(name for name in optional if name in held)], most)


def read_all_arrays(path: Path, most: int) -> Mapping[str, NDArray[Any]]:
    """All arrays of an ``.npz``, in its order. Raises as `read_arrays` does."""
    return _read_arrays(path, lambda held: held, most)


def held_arrays(path: Path) -> list[str]:
    """The names of the arrays of an ``.npz``. Raises UsageError for a file that cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [member.filename.removesuffix(".npy") for member in archive.infolist()]
    except Exception as error:  # as below
        raise UsageError(f"cannot read {path}: {error}", hint=_MEND) from error


def _read_arrays(path: Path, wanted: Callable[[list[str]], Sequence[str]], most: int) -> Mapping[str, NDArray[Any]]:
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            held = [member.filename.removesuffix(".npy") for member in archive.infolist()]
            names = wanted(held)
            if missing := [name for name in names if name not in held]:
                told = ", ".join(held[:10]) or "none"
                raise UsageError(f"{path} lacks the array {missing[0]}; it has {told}", hint=_MEND)
            found = list(dict.fromkeys(names))
            if twice := [name for name in found if held.count(name) > 1]:
                raise UsageError(f"{path} has two arrays called {twice[0]}", hint=_MEND)
            members = {name: archive.infolist()[held.index(name)] for name in found}
            for name, member in members.items():
                _check_member(member, size, f"{path}: {name}")
            if (total := sum(member.file_size for member in members.values())) > most:
                raise UnsafeInput(f"{path} unpacks to {total:,} bytes", hint=f"give at most {most:,}")
            return {name: _read(archive, member, f"{path}: {name}") for name, member in members.items()}
    except (CompressError, MemoryError):
        raise
    except Exception as error:  # NumPy and zipfile have a dozen kinds for broken bytes
        raise UsageError(f"cannot read {path}: {error}", hint=_MEND) from error


def _check_member(member: zipfile.ZipInfo, size: int, where: str) -> None:
    stored = member.compress_type == zipfile.ZIP_STORED
    if member.flag_bits & 1 or not (stored or member.compress_type == zipfile.ZIP_DEFLATED):
        raise UsageError(f"{where} is encrypted, or compressed in a way that NumPy does not write", hint=_MEND)
    packed = min(member.compress_size, size)
    if member.file_size > (packed if stored else max(_PLAIN, _RATIO * packed)):
        raise UnsafeInput(f"{where} claims {member.file_size:,} bytes, of {packed:,} in the file", hint=_MEND)


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    with archive.open(member) as file:
        try:
            version = npy.read_magic(file)
            shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
            if min(shape, default=0) < 0:
                raise ValueError(shape)
        except Exception as error:
            raise UsageError(f"{where} is no array, by its header", hint=_MEND) from error
        held = member.file_size - file.tell()
    if dtype.hasobject:
        raise Pickled(f"{where} is an array of Python objects: a pickle, which can hold code", hint=_MEND)
    if dtype.kind not in "biuf":
        raise UsageError(f"{where} is of {dtype}, not of numbers", hint=_MEND)
    if (claimed := prod(shape) * dtype.itemsize) > held:
        raise UnsafeInput(f"{where} claims {claimed:,} bytes (shape {shape}), and has {held:,}", hint=_MEND)
    with archive.open(member) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array
