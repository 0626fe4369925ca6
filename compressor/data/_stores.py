"""Where image files lie: a folder, or a zip that is never unpacked to disk."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from compressor.core import UnsafeInput, UsageError

_LARGEST = 256 << 20
"""Bytes of one image file."""
_MOST_LINKS = 5_000
"""Links to folders; two that lead to each other would be followed into ever more."""


class Store(Protocol):
    """Files under relative names with forward slashes."""

    path: Path
    indexed: bool
    """Whether checksums are at hand without reading the files."""

    @property
    def files(self) -> Sequence[str]: ...

    @property
    def folders(self) -> Sequence[str]:
        """All folders, empty ones among them where the store records them."""
        ...

    def where(self, name: str) -> str:
        """A file's place, for people."""
        ...

    def size(self, name: str) -> int:
        """Raises UsageError naming the file if it is none, or too large."""
        ...

    def crc(self, name: str) -> int: ...

    def read(self, name: str) -> bytes:
        """Raises UsageError or UnsafeInput naming the file."""
        ...


class Folder:
    """A folder on disk. Links are followed, but for those to folders that lead back up."""

    indexed = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[str] = []
        self.folders: list[str] = []
        links = 0
        try:
            waiting = [("", frozenset({_identity(path.stat())}))]
            while waiting:
                below, above = waiting.pop()
                with os.scandir(path / below) as found:
                    entries = [entry for entry in found if not hidden(entry.name)]
                for entry in entries:
                    if not entry.is_dir():
                        self.files.append(below + entry.name)
                    elif (inner := _identity(entry.stat())) not in above:
                        links += entry.is_symlink()
                        self.folders.append(below + entry.name)
                        waiting.append((f"{below}{entry.name}/", above | {inner}))
                if links > _MOST_LINKS:
                    raise UsageError(
                        f"{self.where(below)} is reached by links that lead in circles", hint="remove them"
                    )
        except OSError as error:
            self._unreadable(error)

    def where(self, name: str) -> str:
        return shown(str(self.path / name))

    def size(self, name: str) -> int:
        try:
            return self._size((self.path / name).stat(), name)
        except OSError as error:
            self._unreadable(error)

    def crc(self, name: str) -> int:
        return zlib.crc32(self.read(name))

    def read(self, name: str) -> bytes:
        try:
            # A pipe that nobody writes to would be waited for.
            with os.fdopen(os.open(self.path / name, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                self._size(os.fstat(file.fileno()), name)
                return file.read()
        except OSError as error:
            self._unreadable(error)

    def _size(self, found: os.stat_result, name: str) -> int:
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
            what = f"has {found.st_size:,} bytes" if stat.S_ISREG(found.st_mode) else "is no regular file"
            raise UsageError(f"{self.where(name)} {what}: that is no image", hint="remove it")
        return found.st_size

    def _unreadable(self, error: OSError) -> NoReturn:
        raise UsageError(
            f"cannot read {self.where(error.filename or '')}: {error.strerror}", hint="mend or remove it"
        ) from error


class Archive:
    """A zip, read in memory: nothing of it is ever written to disk."""

    indexed = True

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # zipfile has a dozen kinds for broken bytes, and so below
            raise UsageError(f"cannot read {path}: {error}", hint="make the zip again; it may be truncated") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        places: dict[str, str | None] = {}  # many members share a folder, and there may be a million
        for member in self._zip.infolist():
            folder, slash, last = member.filename.replace("\\", "/").rpartition("/")
            if (folder := folder + slash) not in places:
                places[folder] = self._place(folder)
            place = places[folder]
            if place is not None and last and not hidden(last):
                self._check(member, place + last)
                self._members[place + last] = member
        self.files = list(self._members)
        self.folders = sorted({p for place in places.values() if place for p in _with_parents(place[:-1])})

    def where(self, name: str) -> str:
        return shown(f"{self.path}/{name}")

    def size(self, name: str) -> int:
        return self._members[name].file_size

    def crc(self, name: str) -> int:
        return self._members[name].CRC

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._members[name])
        except Exception as error:
            raise UsageError(f"cannot read {self.where(name)}: {error}", hint="make the zip again") from error

    def _place(self, folder: str) -> str | None:
        """A member's folder, with its last slash, in plain form; None if it is hidden."""
        parts = folder.split("/")
        if folder.startswith("/") or ".." in parts or folder[1:2] == ":":
            raise UsageError(
                f"{self.path}: member folder {folder!r} is outside of the zip", hint="make the zip with relative names"
            )
        plain = [p for p in parts if p not in ("", ".")]
        return None if any(map(hidden, plain)) else "".join(f"{p}/" for p in plain)

    def _check(self, member: zipfile.ZipInfo, name: str) -> None:
        where = self.where(name)
        if name in self._members:
            raise UsageError(f"{where} is in the zip twice", hint="make the zip again")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UsageError(f"{where} is a link", hint="make the zip again, with the files that links lead to")
        if member.flag_bits & 1:
            raise UsageError(f"{where} is encrypted", hint="make the zip again, without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UsageError(f"{where} is compressed in an unusual way", hint="make the zip again, with deflate")
        if member.file_size > _LARGEST:
            raise UnsafeInput(f"{where} unpacks to {member.file_size:,} bytes", hint="remove it from the zip")


def hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def shown(name: str) -> str:
    """A name from outside, for people: no escape codes, and all of it UTF-8."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _with_parents(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
