"""Which files of a folder or zip are which half, and which class."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from unicodedata import category

import numpy as np

from compressor.core import UsageError
from compressor.data._folder import Files, Tree
from compressor.data._images import SUFFIXES
from compressor.data._splits import Found, RawSplit
from compressor.data._stores import Archive, Folder, shown

TRAIN = "train"
JUDGES = ("test", "val", "valid", "validation")
"""Names of the half to judge on; the first that is there is taken."""

_HALVES = frozenset({TRAIN, *JUDGES})
_LAYOUT = "make one folder of images a class, or train/ and test/ with one folder a class in each"
_UNTOLD = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, bytes that are no UTF-8, line and paragraph separators."""
_KINDS = ", ".join(f".{s}" for s in sorted(SUFFIXES))


def read_folder(path: Path) -> Found:
    """Read a folder or zip of images. Raises UsageError if its layout makes no sense."""
    where = shown(path.resolve().name)
    halves = _halves(path)
    main_name = TRAIN if TRAIN in halves else next(n for n in ("", *JUDGES) if n in halves)
    test_name = next((n for n in JUDGES if n in halves and n != main_name), None)
    classes = _classes(halves[main_name])
    main = _split(halves[main_name], classes, f"{where} {main_name}".strip())
    notes = _ignored(halves[main_name])
    unused = sorted(halves.keys() - {main_name, test_name})
    notes += tuple(f"{name} of {where} is not used" for name in unused)
    if test_name is None:
        return Found(where, classes, main, None, notes)
    tree = halves[test_name]
    if (others := _classes(tree)) != classes:
        raise differing(halves[main_name].where, classes, tree.where, others)
    return Found(where, classes, main, _split(tree, classes, f"{where} {test_name}"), notes + _ignored(tree))


def differing(one: str, classes: tuple[str, ...], other: str, others: tuple[str, ...]) -> UsageError:
    """The error for two halves that do not have the same classes."""
    lines = [
        f"only in {where}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for where, names in (
            (one, [c for c in classes if c not in others]),
            (other, [c for c in others if c not in classes]),
        )
        if names
    ]
    return UsageError(
        f"the classes of {one} and {other} differ: {'; '.join(lines) or 'their order is not the same'}",
        hint="give both the same classes",
    )


def _halves(path: Path) -> dict[str, Tree]:
    """The halves by their names, in lower case; all there is under "" where there are none."""
    whole = Tree.of(Folder(path) if path.is_dir() else Archive(path)).stripped(keep=_HALVES)
    named = {top.lower(): top for top in sorted(whole.tops)}
    # A class may be called "train" too: it is a half only beside a half to judge on, or alone.
    if named.keys() <= _HALVES or (TRAIN in named and not named.keys().isdisjoint(JUDGES)):
        halves = {half: whole.below(top).stripped() for half, top in named.items() if half in _HALVES}
        if path.is_dir():
            for file in sorted(path.glob("*.zip")):
                if (half := file.stem.lower()) in _HALVES and half not in halves and zipfile.is_zipfile(file):
                    halves[half] = Tree.of(Archive(file)).stripped()
        if halves:
            return halves
    return {"": whole}


def _classes(tree: Tree) -> tuple[str, ...]:
    if not tree.images:
        held = f", but {len(tree.others):,} other files ({_kinds(tree)})" if tree.others else ""
        raise UsageError(f"{tree.where} holds no images ({_KINDS}){held}", hint=_LAYOUT)
    if not tree.tops:
        raise UsageError(f"the images of {tree.where} are in no class folders", hint=_LAYOUT)
    if empty := sorted(tree.top_folders - tree.tops):
        raise UsageError(
            f"no images ({_KINDS}) in class folder {', '.join(empty[:5])} of {tree.where}", hint="fill or remove it"
        )
    if odd := [name for name in sorted(tree.tops) if any(category(c) in _UNTOLD for c in name)]:
        raise UsageError(f"class folder {odd[0]!r} of {tree.where} has a name that cannot be printed", hint="rename it")
    return tuple(sorted(tree.tops))


def _split(tree: Tree, classes: tuple[str, ...], name: str) -> RawSplit:
    number = {c: n for n, c in enumerate(classes)}
    names = sorted(n for n in tree.images if "/" in n)
    labels = np.array([number[n.partition("/")[0]] for n in names], np.int64)
    return RawSplit(name, Files(tree.store, tree.prefix, tuple(names)), np.arange(len(names), dtype=np.int64), labels)


def _ignored(tree: Tree) -> tuple[str, ...]:
    loose = sum("/" not in n for n in tree.images)
    notes = []
    if loose:
        notes.append(f"{loose:,} images of {tree.where} are outside of its class folders: ignored")
    if tree.others:
        notes.append(f"{len(tree.others):,} files of {tree.where} are no images ({_kinds(tree)}): ignored")
    return tuple(map(shown, notes))


def _kinds(tree: Tree) -> str:
    """What the files are called that are not read."""
    found = Counter(PurePosixPath(f).suffix or "no suffix" for f in tree.others)
    return ", ".join(shown(kind)[:20] for kind, _ in found.most_common(5))
