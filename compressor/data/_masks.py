"""Images beside masks of class numbers, for segmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compressor.core import Batch, InputSpec, Normalization, UsageError
from compressor.data._folder import Files, Tree
from compressor.data._images import look, whole
from compressor.data._layout import JUDGES, TRAIN, differing
from compressor.data._mask_files import MaskNumbers
from compressor.data._splits import disjoint, halves
from compressor.data._stores import shown
from compressor.preprocessing import normalize

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["MaskSource", "MaskSplit", "PreparedMasks", "load_masks"]

_IMAGES, _MASKS = "images", "masks"
_CLASSES = "classes.txt"
_LOOKED_AT = 64


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """Some images with their masks, as stored."""

    name: str
    images: Files
    masks: Files
    numbers: MaskNumbers
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def origin(self) -> Files:
        """What they are taken from."""
        return self.images

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every file's name and content, and what the numbers mean."""
        lines = [f"{f.names[row]}\0{f.keys[row]}\n" for f in (self.images, self.masks) for row in self.rows.tolist()]
        said = "".join([*lines, *self.numbers.classes, *map(str, self.numbers.table)])
        return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()

    def take(self, positions: NDArray[np.int64], name: str) -> MaskedImages:
        return replace(self, name=name, rows=self.rows[positions])

    def pixels(self, index: int, input: InputSpec) -> NDArray[np.uint8]:
        """An image, C x H x W, the whole of it resized to the network's input."""
        row = int(self.rows[index])
        image = whole(self.images.read(row), input.channels, self.images.where(row))
        if image.shape[1:] == (input.height, input.width):
            return image
        picture = Image.fromarray(image[0] if input.channels == 1 else image.transpose(1, 2, 0))
        resized = np.asarray(picture.resize((input.width, input.height), Image.Resampling.BILINEAR))
        return resized[None] if input.channels == 1 else np.ascontiguousarray(resized.transpose(2, 0, 1))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The class of each pixel at the mask's own size, H x W; 255 where it does not count."""
        return self.numbers.mask(self.masks, int(self.rows[index]))

    def check(self) -> None:
        """Raise UsageError for broken images, and masks of another form than their image, as far as a look shows."""
        self.images.check(self.rows)
        for index in np.linspace(0, len(self) - 1, min(len(self), _LOOKED_AT)).astype(int).tolist():
            row, mask = int(self.rows[index]), self.mask(index)
            seen = look(self.images.read(row), self.images.where(row))
            # A mask may be of a smaller image of the same form.
            if abs(mask.shape[0] * seen.width - mask.shape[1] * seen.height) > max(seen.width, seen.height):
                raise UsageError(
                    f"{self.masks.where(row)} has {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                    f"{seen.width} x {seen.height}",
                    hint="make the mask anew, of its image's size",
                )

    @cached_property
    def size(self) -> InputSpec | None:
        """The images' size where all that are looked at share one."""
        places = np.linspace(0, len(self) - 1, min(len(self), _LOOKED_AT)).astype(int)
        seen = [self.images.look(row) for row in self.rows[places].tolist()]
        sizes = {(each.height, each.width) for each in seen}
        return InputSpec(max(each.channels for each in seen), *sizes.pop()) if len(sizes) == 1 else None


@dataclass(frozen=True, eq=False)
class MaskSource:
    """Images with masks, to learn from and to judge on. Stands where `compressor.data.Source` does."""

    classes: tuple[str, ...]
    train: MaskedImages | None
    evaluate: MaskedImages
    notes: tuple[str, ...]

    images: ClassVar[bool] = True

    @property
    def targets(self) -> str:
        """``masks``: each pixel has its class."""
        return "masks"

    @property
    def size(self) -> InputSpec | None:
        """The images' size where all share one."""
        return self.evaluate.size

    def prepare(self, input: InputSpec, normalization: Normalization, input_name: str) -> PreparedMasks:
        """The samples at a network's input size, normalised when they are read."""
        train = None if self.train is None else MaskSplit(self.train, input, normalization, input_name)
        evaluate, size = MaskSplit(self.evaluate, input, normalization, input_name), self.size
        same = size is not None and (size.height, size.width) == (input.height, input.width)
        stored = f"images of {size}" if size else "images of several sizes"
        notes = () if same else (f"{stored} are resized to {input}; masks are judged at their own size",)
        return PreparedMasks(self.classes, train, evaluate, (*self.notes, *notes))


@dataclass(frozen=True, eq=False)
class PreparedMasks:
    """Satisfies `compressor.core.Data`."""

    classes: tuple[str, ...]
    train: MaskSplit | None
    evaluate: MaskSplit
    notes: tuple[str, ...]

    targets: ClassVar[str] = "masks"


@dataclass(frozen=True, eq=False)
class MaskSplit:
    """Images with masks as a network takes them. Satisfies `compressor.core.Split`."""

    raw: MaskedImages
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

    def take(self, indices: NDArray[np.int64]) -> MaskSplit:
        """The samples at ``indices``, with a name and a fingerprint of their own."""
        return replace(self, raw=self.raw.take(indices, f"{len(indices):,} of {self.name}"))

    def pixels(self, indices: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """The images (all if None) before normalisation, N x C x H x W."""
        rows = range(len(self)) if indices is None else indices.tolist()
        return np.stack([self.raw.pixels(row, self.input) for row in rows])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The class of each pixel at the mask's own size, H x W; 255 where it does not count."""
        return self.raw.mask(index)

    def feeds(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[Feeds]:
        """Yield what the network is fed, without the masks, which take longer to decode."""
        order = np.arange(len(self), dtype=np.int64) if indices is None else indices
        for start in range(0, len(order), size):
            part = self.pixels(order[start : start + size])
            yield {self.input_name: normalize(part, self.normalization)}

    def batches(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Yield (N x C x H x W normalised, N x H x W class numbers at the same size, 255 where they do not count)."""
        order = np.arange(len(self), dtype=np.int64) if indices is None else indices
        for number, feeds in enumerate(self.feeds(size, order)):
            part = order[number * size : (number + 1) * size].tolist()
            yield Batch(feeds, np.stack([_nearest(self.mask(row), self.input) for row in part]))


def load_masks(source: str | None, evaluate: str | None) -> MaskSource | None:
    """Return the source where what is named holds images beside masks; None where nothing does.

    Raises UsageError where one of two does, for images without masks, and as `MaskNumbers` does.
    """
    found = {name: _found(name) for name in (source, evaluate) if name is not None}
    if not any(found.values()):
        return None
    if other := next((name for name, each in found.items() if each is None), None):
        raise UsageError(f"{other} holds no images beside masks", hint="give both as images/ and masks/")
    given = {name: each for name, each in found.items() if each is not None}
    told = [(each.where, each.classes) for each in given.values() if each.classes is not None]
    if told and told[0][1] != told[-1][1]:
        raise differing(*told[0], *told[-1])
    names = told[0][1] if told else None
    numbers = MaskNumbers.of(names, [masks for each in given.values() for _, masks in each.halves.values()])
    if len(numbers.classes) < 2:
        raise UsageError(f"{next(iter(given))} has one class only", hint="give it two classes or more")
    notes = [numbers.note] if numbers.note else []
    judged = None if evaluate is None else _half(given[evaluate], (*JUDGES, "", TRAIN), numbers)
    train = None if source is None else _half(given[source], (TRAIN, "", *JUDGES), numbers)
    if judged is None:
        assert source is not None
        assert train is not None
        judged = _half(given[source], JUDGES, numbers)
        if judged is None or judged.name == train.name:
            notes.append(f"held out 20 % of {train.name}, as it has no test half")
            train, judged = halves(train, "image")
    if train is not None:
        train, note = disjoint(train, judged)
        notes += [note] if note else []
    for split in (train, judged):
        if split is not None:
            split.check()
    return MaskSource(numbers.classes, train, judged, tuple(notes))


@dataclass(frozen=True)
class _Found:
    where: str
    halves: Mapping[str, tuple[Files, Files]]
    """Images and masks of each half; all that there is under "" where there are none."""
    classes: tuple[str, ...] | None
    """The lines of ``classes.txt``."""


def _found(source: str) -> _Found | None:
    """Find ``images/`` beside ``masks/``, in each of ``train/`` and ``test/`` or with those inside; else None."""
    path = Path(source)
    if not source or (tree := Tree.at(path)) is None:
        return None
    while len(tree.top_folders) == 1 and not {_IMAGES, TRAIN, *JUDGES} & _lower(tree).keys():
        tree = tree.below(next(iter(tree.top_folders)))
    halves = dict(_halves(tree))
    where = shown(path.resolve().name)
    return _Found(where, {h: _paired(i, m) for h, (i, m) in halves.items()}, _names(tree)) if halves else None


def _halves(tree: Tree) -> Iterator[tuple[str, tuple[Tree, Tree]]]:
    tops = _lower(tree)
    if {_IMAGES, _MASKS} <= tops.keys():
        images, masks = (tree.below(tops[each]) for each in (_IMAGES, _MASKS))
        inside = {half: name for half, name in _lower(images).items() if half in (TRAIN, *JUDGES)}
        for half, name in inside.items():
            yield half, (images.below(name), masks.below(_lower(masks).get(half, name)))
        if not inside:
            yield "", (images, masks)
        return
    for half in (TRAIN, *JUDGES):
        if half in tops and {_IMAGES, _MASKS} <= (inner := _lower(below := tree.below(tops[half]))).keys():
            yield half, (below.below(inner[_IMAGES]), below.below(inner[_MASKS]))


def _lower(tree: Tree) -> dict[str, str]:
    return {top.lower(): top for top in sorted(tree.top_folders)}


def _paired(images: Tree, masks: Tree) -> tuple[Files, Files]:
    """The images, and the mask of the same stem for each. Raises UsageError naming an image without one."""
    stems = {str(PurePosixPath(name).with_suffix("")): name for name in sorted(masks.images)}
    names = tuple(sorted(images.images))
    if not names:
        raise UsageError(f"{images.where} holds no images", hint="give images/ beside masks/, with the same names")
    alone = [name for name in names if str(PurePosixPath(name).with_suffix("")) not in stems]
    if alone:
        raise UsageError(
            f"{len(alone)} of {len(names)} images of {images.where} have no mask in {masks.where}, such as {alone[0]}",
            hint="give each mask its image's name, as PNG",
        )
    chosen = tuple(stems[str(PurePosixPath(name).with_suffix(""))] for name in names)
    return Files(images.store, images.prefix, names), Files(masks.store, masks.prefix, chosen)


def _names(tree: Tree) -> tuple[str, ...] | None:
    place = next((name for name in tree.others if name.rpartition("/")[2].lower() == _CLASSES), None)
    if place is None:
        return None
    text = tree.store.read(tree.prefix + place).decode("utf-8-sig", "replace")
    return tuple(shown(line.strip()) for line in text.splitlines() if line.strip())


def _half(found: _Found, wanted: Sequence[str], numbers: MaskNumbers) -> MaskedImages | None:
    half = next((each for each in wanted if each in found.halves), None)
    if half is None:
        return None
    images, masks = found.halves[half]
    return MaskedImages(f"{found.where} {half}".strip(), images, masks, numbers, np.arange(len(images.names)))


def _nearest(mask: NDArray[np.uint8], input: InputSpec) -> NDArray[np.int64]:
    if mask.shape != (input.height, input.width):
        mask = np.asarray(Image.fromarray(mask).resize((input.width, input.height), Image.Resampling.NEAREST))
    return mask.astype(np.int64)
