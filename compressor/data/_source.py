"""From what the user names to samples to train and to judge on."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from compressor.core import InputSpec, Normalization, UnsafeInput, UsageError
from compressor.data._arrays import found_in, read_builtin, read_npz
from compressor.data._feeds import ArraySamples, FeedSource, array_samples_of, read_array_samples, split_array_samples
from compressor.data._images import EXACT_SIDE, Look
from compressor.data._layout import differing, read_folder
from compressor.data._masks import MaskSource, load_masks
from compressor.data._npz import held_arrays
from compressor.data._photographs import BUILTIN, PhotographSource, read_photographs
from compressor.data._splits import Found, PreparedSplit, RawSplit, disjoint, halves, hold_out
from compressor.user_code import UserCode

_LOOKED_AT = 64
_IMAGES = {"x", "y"}
"""The arrays of an ``.npz`` of images and their classes."""
_TAKES = (
    "name a folder or zip of images, an .npz, a folder of .npz, builtin:digits, builtin:photographs or "
    "package.module:callable"
)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A source as a network takes it. Satisfies `compressor.core.Data`."""

    classes: tuple[str, ...]
    train: PreparedSplit | None
    evaluate: PreparedSplit
    notes: tuple[str, ...]

    targets: ClassVar[str] = "labels"


@dataclass(frozen=True, eq=False)
class Source:
    """A data source, split, its images as stored. ``train`` and ``evaluate`` share no sample."""

    classes: tuple[str, ...]
    """Their names, in the order of the labels."""
    size: InputSpec | None
    """The images' size if all that were looked at (64 a split) share one."""
    train: RawSplit | None
    evaluate: RawSplit
    notes: tuple[str, ...]
    """Sentences for the report."""

    images: ClassVar[bool] = True
    """Whether samples are images, which are prepared for a network, rather than arrays, which are fed as they are."""

    @property
    def targets(self) -> str:
        """``labels``: each image has its class."""
        return "labels"

    def prepare(self, input: InputSpec, normalization: Normalization, input_name: str) -> Prepared:
        """The samples at a network's input size, normalised when they are read.

        Raises UsageError if images cannot be made into such an input.
        """
        if input.channels not in (1, 3):
            raise UsageError(f"images have 1 or 3 channels, not {input.channels}", hint="correct --input")
        if len(normalization.mean) != input.channels or len(normalization.std) != input.channels:
            raise UsageError(
                f"normalisation {normalization.name!r} is not for {input.channels} channels",
                hint="name another with --normalize",
            )
        train = None if self.train is None else PreparedSplit(self.train, input, normalization, input_name)
        evaluate = PreparedSplit(self.evaluate, input, normalization, input_name)
        return Prepared(self.classes, train, evaluate, self.notes + _fitting(self.size, input))


AnySource = Source | PhotographSource | MaskSource | FeedSource
"""What `load_data` finds."""


def load_data(source: str | None, *, evaluate: str | None = None) -> AnySource:
    """Find the samples that ``--data`` and ``--eval`` name; either may be left out.

    Nothing is decoded but some headers, and files that look broken. Without samples to judge on a fifth of
    ``source`` is held out; without ``source`` there is no ``train``.
    Raises UsageError for anything that cannot be used, UnsafeInput for what claims more than it holds or holds code,
    naming the file and the mend.
    """
    if source is None and evaluate is None:
        raise UsageError("no data is named", hint=_TAKES)
    if (masked := load_masks(source, evaluate)) is not None:
        return masked
    if (photographs := _photographs(source, evaluate)) is not None:
        return photographs
    found = None if source is None else _read(source)
    judged = None if evaluate is None else _read(evaluate)
    if isinstance(found, ArraySamples) or isinstance(judged, ArraySamples):
        return split_array_samples(*(_array_samples(each, source, evaluate) for each in (found, judged)))
    for each, name in ((found, source), (judged, evaluate)):
        if each is not None and len(each.classes) < 2:
            raise UsageError(f"{name} has one class only: {each.classes[0]}", hint="give it two classes or more")
    notes = [note for each in (found, judged) if each for note in each.notes]
    train: RawSplit | None
    if judged is not None:
        test = judged.test or judged.main
        train = None if found is None else found.main
        classes = judged.classes if found is None else _same_classes(found, judged)
        if found is not None and found.test is not None:
            notes.append(f"{found.test.name} is not used, as {test.name} is judged on")
    else:
        assert found is not None
        classes = found.classes
        if found.test is not None:
            train, test = found.main, found.test
        else:
            train, test = hold_out(found.main)
            notes.append(
                f"held out 20 % of {found.where} ({len(test):,} of {len(found.main):,} samples, of every class), "
                "as it has no test half"
            )
    if train is not None:
        train, note = disjoint(train, test)
        notes += [note] if note else []
    for split in (train, test):
        if split is not None:
            split.check()
    looks = [look for split in (train, test) if split for look in split.looks(_LOOKED_AT)]
    return Source(classes, _size(looks), train, test, (*notes, *_mixture(looks)))


def _photographs(source: str | None, evaluate: str | None) -> PhotographSource | None:
    """The source where what is named is for super-resolution; None where nothing is."""
    found = {name: read_photographs(name) for name in (source, evaluate) if name is not None}
    if not any(found.values()):
        return None
    if other := next((name for name, each in found.items() if each is None), None):
        raise UsageError(
            f"{other} is for classification, {next(n for n, e in found.items() if e)} for super-resolution",
            hint="give both as folders of photographs, or both as folders of classes",
        )
    train = found[source] if source is not None else None
    notes: tuple[str, ...] = ()
    if evaluate is not None:
        judged = found[evaluate]
    else:
        assert train is not None
        notes = (f"held out 20 % of {train.name}, as it has no test half",)
        train, judged = halves(train, "photograph")
    assert judged is not None
    if train is not None:
        train, note = disjoint(train, judged)
        notes += (note,) if note else ()
        train.check()
    judged.check()
    return PhotographSource(train, judged, notes)


def default_size(source: AnySource | None) -> tuple[int, int] | None:
    """The height and width that a network takes by default: the images' own if they are small, or have masks."""
    if source is None or not source.images:
        return None
    size = source.size
    if size is not None and (isinstance(source, MaskSource) or max(size.height, size.width) <= EXACT_SIDE):
        return size.height, size.width
    return 224, 224


def _array_samples(found: Found | ArraySamples | None, *names: str | None) -> ArraySamples | None:
    if isinstance(found, Found):
        raise UsageError(
            f"{' and '.join(filter(None, names))}: one holds images of classes, the other arrays by input name",
            hint="give both in one form",
        )
    return found


def _read(source: str) -> Found | ArraySamples:
    if source.startswith(BUILTIN):
        return read_builtin(source.removeprefix(BUILTIN))
    path = Path(source)
    try:
        if source and path.is_dir():
            return read_array_samples(path) or read_folder(path)
        if source and path.exists():
            if path.is_file() and _is_pickle(path):
                raise UnsafeInput(f"{source} is a pickle, which can hold code", hint=_TAKES)
            if not path.is_file() or not zipfile.is_zipfile(path):
                raise UsageError(f"{source} is neither a folder, a zip nor an .npz, or it is truncated", hint=_TAKES)
            if path.suffix.lower() != ".npz":
                return read_folder(path)
            return read_npz(path) if set(held_arrays(path)) >= _IMAGES else read_array_samples(path) or read_npz(path)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}", hint=_TAKES) from error
    if UserCode.matches(source):
        given = UserCode.parse(source).call()
        listed = isinstance(given, list | tuple) and isinstance(next(iter(given), None), Mapping)
        dicts = listed or isinstance(given, Mapping | Iterator)
        return array_samples_of(given, source) if dicts else found_in(given, source)
    raise UsageError(f"no such data: {source!r}", hint=_TAKES)


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as all pickles since Python 2.3 do."""
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")


def _same_classes(found: Found, judged: Found) -> tuple[str, ...]:
    numbered = judged.classes == tuple(map(str, range(len(judged.classes))))
    # Classes that are numbers only are known from the labels, of which the highest may be missing.
    if judged.classes != (found.classes[: len(judged.classes)] if numbered else found.classes):
        raise differing(found.where, found.classes, judged.where, judged.classes)
    return found.classes


def _size(looks: list[Look]) -> InputSpec | None:
    if len({(look.height, look.width) for look in looks}) != 1:
        return None
    return InputSpec(max(look.channels for look in looks), looks[0].height, looks[0].width)


def _fitting(size: InputSpec | None, input: InputSpec) -> tuple[str, ...]:
    if size == input:
        return ()
    stored = f"images of {size}" if size else "images of several sizes"
    if size and (size.height, size.width) == (input.height, input.width):
        return (f"{stored} are converted to {input}",)
    cropped = max(input.height, input.width) > EXACT_SIDE
    return (f"{stored} are resized{' and centre-cropped' if cropped else ''} to {input}",)


def _mixture(looks: list[Look]) -> tuple[str, ...]:
    grey = sum(look.channels == 1 for look in looks)
    among = f"of the {len(looks):,} images looked at"
    notes = []
    if 0 < grey < len(looks):
        notes.append(f"{grey} {among} are grey, the others coloured: all are converted to the network's channels")
    oddities = Counter(oddity for look in looks for oddity in look.oddities)
    return (*notes, *(f"{count} {among} {oddity}" for oddity, count in sorted(oddities.items())))
