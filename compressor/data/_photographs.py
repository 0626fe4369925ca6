"""Photographs for super-resolution: a folder of images whose pairs are made on the fly, or pairs as given."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compressor.core import Batch, InputSpec, Normalization, UsageError
from compressor.data._folder import Files, Tree
from compressor.data._images import whole
from compressor.data._stores import shown
from compressor.preprocessing import normalize

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = [
    "ImagePairs", "PhotographSource", "Photographs", "PreparedImages", "PreparedSource", "UnlabelledImages",
    "read_photographs",
]  # fmt: skip

BUILTIN = "builtin:"
_LARGE = "hr"
_SMALL = re.compile(r"lr_x([1-9]\d?)", re.IGNORECASE)
_KEPT = 1 << 29
"""Bytes of decoded pairs that stay in memory."""


@dataclass(frozen=True, eq=False)
class Photographs:
    """Some photographs of a source, as stored; with given pairs the small ones too."""

    name: str
    large: Files
    small: Mapping[int, Files]
    """The given small images by how many times smaller they are; none where pairs are made."""
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def origin(self) -> Files:
        """What they are taken from."""
        return self.large

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every file's name and content."""
        files = [self.large, *(self.small[scale] for scale in sorted(self.small))]
        lines = [f"{f.prefix}{f.name(row)}\0{f.keys[row]}\n" for f in files for row in self.rows.tolist()]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def take(self, positions: NDArray[np.int64], name: str) -> Photographs:
        return replace(self, name=name, rows=self.rows[positions])

    def check(self) -> None:
        """Raise as decoding does for broken files, as far as they are found in a second or two."""
        for files in (self.large, *self.small.values()):
            files.check(self.rows)

    def pair(self, index: int, scale: int, channels: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A small image and its large one, C x H x W and C x sH x sW.

        Where pairs are made: antialiased bicubic, a = -0.5 (Pillow's), of the large one cropped top left to what
        divides. Raises UsageError naming the file where there is no such pair.
        """
        row = int(self.rows[index])
        large = whole(self.large.read(row), channels, self.large.where(row))
        if self.small:
            small = whole(self.small[scale].read(row), channels, self.small[scale].where(row))
            height, width = (scale * side for side in small.shape[1:])
            spare = (large.shape[1] - height, large.shape[2] - width)
            if not (min(spare) >= 0 and max(spare) < scale):
                sizes = " and ".join(f"{i.shape[2]} x {i.shape[1]}" for i in (small, large))
                raise UsageError(
                    f"{self.small[scale].where(row)} and {self.large.where(row)} are of {sizes} pixels: "
                    f"not one image, {scale} times smaller",
                    hint=f"make LR_x{scale} of HR anew, or remove both",
                )
            return small, np.ascontiguousarray(large[:, :height, :width])
        height, width = (side // scale * scale for side in large.shape[1:])
        if not height or not width:
            raise UsageError(
                f"{self.large.where(row)} has {large.shape[2]} x {large.shape[1]} pixels: "
                f"nothing of it is {scale} times smaller",
                hint="remove it",
            )
        large = np.ascontiguousarray(large[:, :height, :width])
        image = Image.fromarray(large[0] if channels == 1 else large.transpose(1, 2, 0))
        reduced = np.asarray(image.resize((width // scale, height // scale), Image.Resampling.BICUBIC))
        return reduced[None] if channels == 1 else np.ascontiguousarray(reduced.transpose(2, 0, 1)), large


@dataclass(frozen=True, eq=False)
class PhotographSource:
    """Photographs to learn from and to judge on. Stands where `compressor.data.Source` does."""

    train: Photographs | None
    evaluate: Photographs
    notes: tuple[str, ...]

    classes: tuple[str, ...] = ()
    size: None = None
    images: ClassVar[bool] = True

    @property
    def targets(self) -> str:
        """``images``: pairs are given, or can be made."""
        return "images"

    def prepare(
        self, input: InputSpec, normalization: Normalization, input_name: str, upscale_factor: int
    ) -> PreparedSource:
        """The pairs for a network that enlarges so many times. Raises UsageError where given pairs are for others."""
        for split in (self.train, self.evaluate):
            if split is not None and split.small and upscale_factor not in split.small:
                known = ", ".join(f"x{scale}" for scale in sorted(split.small))
                raise UsageError(
                    f"{split.name} has pairs for {known}, the model enlarges x{upscale_factor}",
                    hint=f"add LR_x{upscale_factor}, or give a folder of photographs: pairs are made of those",
                )
        prepared = [
            None if split is None else ImagePairs(split, upscale_factor, input, normalization, input_name)
            for split in (self.train, self.evaluate)
        ]
        made = [s.name for s in (self.train, self.evaluate) if s is not None and not s.small]
        notes = self.notes
        if made:
            notes += (f"pairs of {' and '.join(made)} are made: antialiased bicubic, {upscale_factor} times smaller",)
        assert prepared[1] is not None
        return PreparedSource(prepared[0], prepared[1], notes)

    def prepare_unlabelled(self, input: InputSpec, normalization: Normalization, input_name: str) -> PreparedImages:
        """The photographs as samples without targets, for any network that takes images."""
        prepared = [
            None if split is None else UnlabelledImages(split, input, normalization, input_name)
            for split in (self.train, self.evaluate)
        ]
        assert prepared[1] is not None
        return PreparedImages(prepared[0], prepared[1], (*self.notes, "the images are used without labels"))


@dataclass(frozen=True, eq=False)
class PreparedSource:
    """Satisfies `compressor.core.Data`."""

    train: ImagePairs | None
    evaluate: ImagePairs
    notes: tuple[str, ...]

    classes: tuple[str, ...] = ()
    targets: ClassVar[str] = "images"


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Images without targets. Satisfies `compressor.core.Data`."""

    train: UnlabelledImages | None
    evaluate: UnlabelledImages
    notes: tuple[str, ...]

    classes: tuple[str, ...] = ()
    targets: ClassVar[None] = None


@dataclass(frozen=True, eq=False)
class ImagePairs:
    """Pairs as a network takes them. Satisfies `compressor.core.Split`; a sample of that is a crop of one image."""

    raw: Photographs
    upscale_factor: int
    input: InputSpec
    normalization: Normalization
    input_name: str
    """The network's input that is fed."""

    @property
    def name(self) -> str:
        return self.raw.name

    @cached_property
    def fingerprint(self) -> str:
        said = f"{self.raw.fingerprint} x{self.upscale_factor} {'given' if self.raw.small else 'bicubic'}"
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def labels(self) -> NDArray[np.int64]:
        """Photographs have no class: 0 for all."""
        return np.zeros(len(self), np.int64)

    def __len__(self) -> int:
        return len(self.raw)

    def take(self, indices: NDArray[np.int64]) -> ImagePairs:
        """The photographs at ``indices``, with a name and a fingerprint of their own."""
        return replace(self, raw=self.raw.take(indices, f"{len(indices):,} of {self.name}"))

    def pairs(self) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Each photograph's name, its small image and the large one, whole."""
        for index in range(len(self)):
            yield self.raw.large.name(int(self.raw.rows[index])), *self._pair(index)

    def pixels(self, indices: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """The middles of small images, N x C x H x W of the input's size; what is smaller is mirrored at its edges."""
        rows = range(len(self)) if indices is None else indices.tolist()
        return np.stack([_middle(self._pair(row)[0], self.input.height, self.input.width) for row in rows])

    def batches(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Yield (N x C x H x W as `pixels` has them, normalised; no targets: they are parts of images)."""
        order = np.arange(len(self), dtype=np.int64) if indices is None else indices
        for start in range(0, len(order), size):
            yield Batch(self._normalized(self.pixels(order[start : start + size])), None)

    def feeds(self, pixels: NDArray[np.uint8]) -> Feeds:
        """What the network is fed for one whole image, C x H x W."""
        return self._normalized(pixels[None])

    def _normalized(self, pixels: NDArray[np.uint8]) -> Feeds:
        return {self.input_name: normalize(pixels, self.normalization)}

    def _pair(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if (kept := self._kept.get(index)) is None:
            kept = self.raw.pair(index, self.upscale_factor, self.input.channels)
            if sum(each.nbytes for pair in self._kept.values() for each in pair) < _KEPT:
                self._kept[index] = kept
        return kept

    @cached_property
    def _kept(self) -> dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        return {}


@dataclass(frozen=True, eq=False)
class UnlabelledImages:
    """Images at a network's input size, without targets. Satisfies `compressor.core.Split`."""

    raw: Photographs
    input: InputSpec
    normalization: Normalization
    input_name: str
    """The network's input that is fed."""

    @property
    def name(self) -> str:
        return self.raw.name

    @property
    def fingerprint(self) -> str:
        return self.raw.fingerprint

    def __len__(self) -> int:
        return len(self.raw)

    def take(self, indices: NDArray[np.int64]) -> UnlabelledImages:
        """The images at ``indices``, with a name and a fingerprint of their own."""
        return replace(self, raw=self.raw.take(indices, f"{len(indices):,} of {self.name}"))

    def pixels(self, indices: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """The images (all if None) before normalisation, N x C x H x W, fitted as `compressor.data` fits all images."""
        rows = self.raw.rows if indices is None else self.raw.rows[indices]
        return np.stack([self.raw.large.load(int(row), self.input) for row in rows])

    def batches(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Yield (N x C x H x W normalised, no targets)."""
        order = np.arange(len(self), dtype=np.int64) if indices is None else indices
        for start in range(0, len(order), size):
            pixels = self.pixels(order[start : start + size])
            yield Batch({self.input_name: normalize(pixels, self.normalization)}, None)


def read_photographs(source: str) -> Photographs | None:
    """A folder or zip of photographs: ``HR/`` beside ``LR_x<scale>/``, or images and no folders of them.

    None where it is anything else. Raises UsageError for pairs that do not match.
    """
    path = Path(source)
    if source == f"{BUILTIN}photographs":
        path = _bundled()
    if not source or (tree := Tree.at(path)) is None:
        return None
    where = "photographs" if source.startswith(BUILTIN) else shown(path.resolve().name)
    while len(tree.top_folders) == 1 and tree.images and tree.tops == tree.top_folders and not _loose(tree):
        if _LARGE in {top.lower() for top in tree.tops} or any(n.count("/") == 1 for n in tree.images):
            break  # that folder is HR alone, or one class
        tree = tree.below(next(iter(tree.tops)))
    tops = {top.lower(): top for top in tree.tops}
    small = {int(m[1]): top for top in tree.tops if (m := _SMALL.fullmatch(top))}
    if _LARGE in tops and small:
        return _given(tree, tops[_LARGE], small, where)
    if _loose(tree) and not tree.tops:
        names = tuple(sorted(tree.images))
        return Photographs(where, Files(tree.store, tree.prefix, names), {}, np.arange(len(names), dtype=np.int64))
    return None


def _bundled() -> Path:
    """Scikit-learn's two photographs, as its wheel has them: of a temple and of a flower, 640 x 427."""
    import sklearn

    return Path(sklearn.__file__).parent / "datasets" / "images"


def _loose(tree: Tree) -> list[str]:
    return [name for name in tree.images if "/" not in name]


def _given(tree: Tree, large: str, small: Mapping[int, str], where: str) -> Photographs:
    def files(top: str) -> Files:
        below = tree.below(top)
        return Files(below.store, below.prefix, tuple(sorted(below.images)))

    ours = files(large)
    theirs = {scale: files(top) for scale, top in small.items()}
    for scale, other in theirs.items():
        if alone := sorted(set(ours.names) ^ set(other.names)):
            raise UsageError(
                f"{where}: {large} and {small[scale]} have not the same file names: {alone[0]} is in one only",
                hint="give each image the same name in both",
            )
    return Photographs(where, ours, theirs, np.arange(len(ours.names), dtype=np.int64))


def _middle(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    missing = [max(0, wanted - side) for wanted, side in zip((height, width), image.shape[1:], strict=True)]
    if any(missing):
        edges = [(0, 0), *((gap // 2, gap - gap // 2) for gap in missing)]
        image = np.pad(image, edges, "symmetric")
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]
