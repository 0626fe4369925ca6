"""Image files in folders or zips, in the ImageFolder layout: one folder a class."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.core import CompressError, InputSpec
from compressor.data._images import SUFFIXES, Look, check, decode, look, looks_whole
from compressor.data._stores import Archive, Folder, Store

_HASH_LIMIT = 2 << 30
_CHECKED, _CHECKED_BYTES = 100_000, 256 << 20
"""Files, and bytes of them, that are read before a run begins: some two seconds."""
_TOLD = 100
"""Files that are wrong; by then it is known that the set is."""


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

    @classmethod
    def at(cls, path: Path) -> Tree | None:
        """Open a folder or a zip; None of anything else, which whoever reads it otherwise says what is wrong with."""
        try:
            archive = path.is_file() and path.suffix.lower() != ".npz" and zipfile.is_zipfile(path)
            if not (archive or path.is_dir()):
                return None
        except OSError:
            return None
        return cls.of(Folder(path) if path.is_dir() else Archive(path))

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
    def sizes(self) -> Sequence[int]:
        return [self.store.size(self.prefix + n) for n in self.names]

    @cached_property
    def comparable(self) -> bool:
        return self.store.indexed or sum(self.sizes) <= _HASH_LIMIT

    @cached_property
    def keys(self) -> Sequence[str]:
        # CRC-32 and size are what a zip's index has, so a set has one fingerprint, zipped or not.
        members = [self.prefix + n for n in self.names]
        if not self.comparable:
            return list(map(str, self.sizes))
        return [f"{self.store.crc(m):08x}:{size}" for m, size in zip(members, self.sizes, strict=True)]

    def name(self, row: int) -> str:
        return self.names[row]

    def look(self, row: int) -> Look:
        return look(self.read(row), self.where(row))

    def load(self, row: int, input: InputSpec) -> NDArray[np.uint8]:
        return decode(self.read(row), input, self.where(row))

    def check(self, rows: NDArray[np.int64]) -> None:
        # All of them, or what can be read in a second or two, from end to end.
        every = max(1, len(rows) // _CHECKED, sum(self.sizes) // _CHECKED_BYTES)
        wrong: list[CompressError] = []
        for row in rows[::every].tolist():
            try:
                if not looks_whole(data := self.read(row)):
                    check(data, self.where(row))
            except CompressError as error:
                wrong.append(error)
                if len(wrong) == _TOLD:
                    break
        if wrong:
            if len(wrong) > 1:
                wrong[0].what += f" (and {len(wrong) - 1}{' or more' if len(wrong) == _TOLD else ''} others)"
            raise wrong[0]

    def read(self, row: int) -> bytes:
        """The file's content."""
        return self.store.read(self.prefix + self.names[row])

    def where(self, row: int) -> str:
        """Its place, for people."""
        return self.store.where(self.prefix + self.names[row])
