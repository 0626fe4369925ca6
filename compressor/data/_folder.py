"""Image files in folders or zips, in the ImageFolder layout: one folder a class."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.core import InputSpec, UsageError
from compressor.data._images import SUFFIXES, Look, decode, look

_HASH_LIMIT = 2 << 30
_MEMBER_LIMIT = 256 << 20


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

    def size(self, name: str) -> int: ...

    def crc(self, name: str) -> int: ...

    def read(self, name: str) -> bytes:
        """Raises UsageError naming the file."""
        ...


class Folder:
    """A folder on disk. Links to folders are followed, unless they lead back up."""

    indexed = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[str] = []
        self.folders: list[str] = []
        for root, folders, files in os.walk(path, onerror=self._unreadable, followlinks=True):
            here = Path(root)
            folders[:] = sorted(f for f in folders if not _hidden(f) and not _leads_up(here / f))
            below = "" if here == path else here.relative_to(path).as_posix() + "/"
            self.folders += [below + f for f in folders]
            self.files += [below + f for f in files if not _hidden(f)]

    def size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except OSError as error:
            self._unreadable(error)

    def crc(self, name: str) -> int:
        return zlib.crc32(self.read(name))

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            self._unreadable(error)

    def _unreadable(self, error: OSError) -> NoReturn:
        raise UsageError(
            f"cannot read {error.filename or self.path}: {error.strerror}", mend="mend or remove it"
        ) from error


class Archive:
    """A zip, read in memory: nothing of it is ever written to disk."""

    indexed = True

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # zipfile has a dozen kinds for broken bytes, and so below
            raise UsageError(f"cannot read {path}: {error}", mend="make the zip again; it may be truncated") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        places: dict[str, str | None] = {}  # many members share a folder, and there may be a million
        for member in self._zip.infolist():
            folder, slash, last = member.filename.replace("\\", "/").rpartition("/")
            if (folder := folder + slash) not in places:
                places[folder] = self._place(folder)
            place = places[folder]
            if place is not None and last and not _hidden(last):
                self._members[place + last] = member
        self.files = list(self._members)
        self.folders = sorted({p for place in places.values() if place for p in _with_parents(place[:-1])})

    def size(self, name: str) -> int:
        return self._members[name].file_size

    def crc(self, name: str) -> int:
        return self._members[name].CRC

    def read(self, name: str) -> bytes:
        member = self._members[name]
        if member.file_size > _MEMBER_LIMIT:
            raise UsageError(
                f"{self.path}: {name} unpacks to {member.file_size:,} bytes", mend="remove it from the zip"
            )
        try:
            return self._zip.read(member)
        except Exception as error:
            raise UsageError(
                f"cannot read {name} in {self.path}: {error}", mend="make the zip again, without encryption"
            ) from error

    def _place(self, folder: str) -> str | None:
        """A member's folder, with its last slash, in plain form; None if it is hidden."""
        parts = folder.split("/")
        if folder.startswith("/") or ".." in parts or folder[1:2] == ":":
            raise UsageError(
                f"{self.path}: member folder {folder!r} is outside of the zip", mend="make the zip with relative names"
            )
        plain = [p for p in parts if p not in ("", ".")]
        return None if any(map(_hidden, plain)) else "".join(f"{p}/" for p in plain)


@dataclass(frozen=True)
class Tree:
    """A store, or one folder of it: what is below ``prefix``, by the names below it."""

    store: Store
    prefix: str
    images: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple[str, ...]

    @classmethod
    def of(cls, store: Store) -> Tree:
        images: list[str] = []
        others: list[str] = []
        for file in store.files:
            (images if file.rpartition(".")[2].lower() in SUFFIXES else others).append(file)
        return cls(store, "", tuple(images), tuple(others), tuple(store.folders))

    @property
    def where(self) -> str:
        return str(self.store.path / self.prefix)

    @cached_property
    def tops(self) -> frozenset[str]:
        """The folders at the top that have images in them."""
        return frozenset(n.partition("/")[0] for n in self.images if "/" in n)

    @cached_property
    def top_folders(self) -> frozenset[str]:
        return frozenset(f for f in self.folders if "/" not in f)

    def below(self, folder: str) -> Tree:
        start = folder + "/"
        images, others, folders = (
            tuple(n.removeprefix(start) for n in names if n.startswith(start))
            for names in (self.images, self.others, self.folders)
        )
        return Tree(self.store, self.prefix + start, images, others, folders)

    def stripped(self, keep: frozenset[str] = frozenset()) -> Tree:
        """Without single folders around all that there is, but for those named in ``keep``."""
        tree = self
        while len(tree.top_folders) == 1 and not {f.lower() for f in tree.top_folders} & keep:
            if not any(n.count("/") >= 2 for n in tree.images):
                break
            (only,) = tree.top_folders
            tree = tree.below(only)
        return tree


@dataclass(frozen=True, eq=False)
class Files:
    """Image files of a store as `Samples`."""

    store: Store
    prefix: str
    names: tuple[str, ...]

    @cached_property
    def comparable(self) -> bool:
        return self.store.indexed or sum(self.store.size(self.prefix + n) for n in self.names) <= _HASH_LIMIT

    @cached_property
    def keys(self) -> Sequence[str]:
        # CRC-32 and size are what a zip's index has, so a set has one fingerprint, zipped or not.
        members = [self.prefix + n for n in self.names]
        if not self.comparable:
            return [str(self.store.size(m)) for m in members]
        return [f"{self.store.crc(m):08x}:{self.store.size(m)}" for m in members]

    def name(self, row: int) -> str:
        return self.names[row]

    def look(self, row: int) -> Look:
        return look(self._read(row), self._where(row))

    def load(self, row: int, input: InputSpec) -> NDArray[np.uint8]:
        return decode(self._read(row), input, self._where(row))

    def _read(self, row: int) -> bytes:
        return self.store.read(self.prefix + self.names[row])

    def _where(self, row: int) -> str:
        return f"{self.store.path}/{self.prefix}{self.names[row]}"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _leads_up(link: Path) -> bool:
    return link.is_symlink() and link.parent.resolve().is_relative_to(link.resolve())


def _with_parents(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
