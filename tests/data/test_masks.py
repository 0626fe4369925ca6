"""Images beside masks: how they may lie, what numbers mean, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressor.core import InputSpec, UsageError
from compressor.data import MaskSource, load_data
from compressor.preprocessing import parse_normalization

SIDE = 12


def image(seed: int, height: int = SIDE, width: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def numbers(seed: int, values: tuple[int, ...] = (0, 1, 2), height: int = SIDE, width: int = SIDE) -> Any:
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), (height, width))


def write(root: Path, half: str, count: int, values: tuple[int, ...] = (0, 1, 2), first: int = 0) -> Path:
    """Images and masks at ``half``, which may hold a {} for the two kinds."""
    form = half if "{}" in half else f"{half}/{{}}".lstrip("/")
    places = [root / form.format(kind) for kind in ("images", "masks")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        image(number).save(places[0] / f"{number}.jpg")
        Image.fromarray(numbers(number, values)).save(places[1] / f"{number}.png")
    return root


def masks(root: Path, **named: Any) -> MaskSource:
    found = load_data(str(root), **named)
    assert isinstance(found, MaskSource)
    return found


def test_a_set_of_one_half_keeps_its_names(tmp_path: Path) -> None:
    write(tmp_path, "train", 10)
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfvoid\r\nroad\r\ncar\r\n")
    source = masks(tmp_path)
    assert source.classes == ("road", "car")
    assert {0, 1, 255} == set(np.unique(source.evaluate.mask(0)).tolist())


def test_sets_too_large_to_compare_lose_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressor.data._folder._HASH_LIMIT", 0)
    write(tmp_path, "train", 5)
    source = masks(write(tmp_path, "test", 5, first=10))
    assert source.train is not None
    assert len(source.train) == 5
    assert any("more than 2 GiB" in note for note in source.notes)


@pytest.mark.parametrize("form", ["{}/{{}}", "{{}}/{}"], ids=["train/images", "images/train"])
@pytest.mark.parametrize("judge", ["test", "val"])
def test_halves_lie_inside_or_outside(tmp_path: Path, form: str, judge: str) -> None:
    for half, count, first in (("train", 5, 0), (judge, 3, 10)):
        write(tmp_path, form.format(half), count, first=first)
    source = masks(tmp_path)
    assert source.train is not None
    assert (len(source.train), len(source.evaluate)) == (5, 3)
    assert source.classes == ("0", "1", "2")
    assert np.array_equal(source.evaluate.mask(1), numbers(11))


def test_a_fifth_is_held_out_where_there_are_no_halves(tmp_path: Path) -> None:
    source = masks(write(tmp_path, "", 10))
    assert source.train is not None
    assert (len(source.train), len(source.evaluate)) == (8, 2)
    assert any("held out 20 %" in note for note in source.notes)
    again = masks(tmp_path)
    assert again.evaluate.fingerprint == source.evaluate.fingerprint
    alone = masks(tmp_path, evaluate=str(write(tmp_path / "judged", "", 4, first=20)))
    assert alone.train is not None
    assert (len(alone.train), len(alone.evaluate)) == (10, 4)


def test_names_and_what_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, "", 6, (0, 1, 2, 3, 255))
    (tmp_path / "classes.txt").write_text("road\nvoid\n\ncar\n")
    source = masks(tmp_path)
    assert source.classes == ("road", "car")
    assert source.notes[0] == "number 3 of the masks is behind the last class: it does not count"
    known = {0: 0, 1: 255, 2: 1, 3: 255, 255: 255}
    stored = numbers(int(source.evaluate.images.name(int(source.evaluate.rows[0]))[:-4]), (0, 1, 2, 3, 255))
    assert np.array_equal(source.evaluate.mask(0), np.vectorize(known.get)(stored))


def test_masks_of_0_and_255_are_binary(tmp_path: Path) -> None:
    source = masks(write(tmp_path, "", 6, (0, 255)))
    assert source.classes == ("background", "foreground")
    assert set(np.unique(source.evaluate.mask(0)).tolist()) == {0, 1}


def test_masks_with_palettes_are_numbers(tmp_path: Path) -> None:
    write(tmp_path, "", 3)
    indexed = Image.fromarray(numbers(0)).convert("P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    indexed.putdata(numbers(0).flatten().tolist())
    indexed.save(tmp_path / "masks" / "0.png")
    source = masks(tmp_path)
    parts = [part for part in (source.train, source.evaluate) if part is not None]
    found = {part.images.name(int(row)): part.mask(place) for part in parts for place, row in enumerate(part.rows)}
    assert np.array_equal(found["0.jpg"], numbers(0))


def test_batches_are_of_the_networks_size_and_masks_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "", 10)
    data = masks(tmp_path).prepare(InputSpec(3, 6, 8), parse_normalization("unit", 3), "x")
    (feeds, seen), *_ = data.evaluate.batches(2)
    assert feeds["x"].shape == (2, 3, 6, 8)
    assert seen is not None
    assert seen.shape == (2, 6, 8)
    assert set(np.unique(seen).tolist()) <= {0, 1, 2}
    assert data.evaluate.mask(0).shape == (SIDE, SIDE)
    assert "are resized to 3x6x8; masks are judged at their own size" in data.notes[-1]
    assert len(data.evaluate.take(np.array([1]))) == 1


def without(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def replaced(name: str, what: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        place = root / name
        place.write_bytes(what) if isinstance(what, bytes) else what.save(place)

    return change


def renamed(root: Path) -> None:
    (root / "masks" / "3.png").rename(root / "masks" / "three.png")


def named(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "classes.txt").write_text(text) and None


def emptied(root: Path) -> None:
    for file in (root / "images").iterdir():
        file.unlink()


def from_one(root: Path) -> None:
    (root / "classes.txt").write_text("a\nb\nc\n")
    for number in range(10):
        Image.fromarray(numbers(number, (1, 2, 3))).save(root / "masks" / f"{number}.png")


WIDE = Image.fromarray(np.full((SIDE, SIDE), 300, np.uint16))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without("masks/3.png"), "1 of 10 images of"),
        (renamed, "such as 3.jpg"),
        (emptied, "holds no images"),
        (replaced("masks/3.png", image(0)), "3.png holds colours, not class numbers"),
        (replaced("masks/3.png", image(0).convert("RGBA")), "holds colours"),
        (replaced("masks/3.png", WIDE), "has numbers above 255"),
        (replaced("masks/3.png", b""), "cannot decode"),
        (replaced("masks/3.png", b"\x89PNG\r\n\x1a\n" + b"x" * 40), "cannot decode"),
        (replaced("masks/3.png", Image.fromarray(numbers(3, height=SIDE, width=2 * SIDE))), "has 24 x 12 pixels"),
        (replaced("images/3.jpg", b"nothing"), "cannot decode"),
        (named("road\n"), "has one class only"),
        (named("road\ncar\n"), None),
        (named("one\nvoid\nvoid\n"), "has one class only"),
        (from_one, "the masks number classes from 1 to 3"),
        (replaced("masks/3.png", Image.fromarray(numbers(3, (0, 1, 9)))), None),
    ],
)
def test_broken_sets(tmp_path: Path, spoil: Callable[[Path], None], says: str | None) -> None:
    root = write(tmp_path / "set", "", 10)
    spoil(root)
    if says is None:
        assert masks(root).classes  # 2 is behind the last of two names; 9 is a class of a set without names
        return
    with pytest.raises(UsageError) as caught:
        masks(root)
    assert says in caught.value.what, caught.value.what
    assert caught.value.hint


def test_a_number_that_no_class_has_is_told_when_it_is_met(tmp_path: Path) -> None:
    root = write(tmp_path, "", 10)
    (root / "classes.txt").write_text("a\nb\nc\n")
    Image.fromarray(numbers(3, (0, 1, 77))).save(root / "masks" / "3.png")
    with pytest.raises(UsageError, match=r"3\.png has the number 77, and there are 3 classes"):
        masks(root)


def test_two_sources_that_do_not_match(tmp_path: Path) -> None:
    root, other = write(tmp_path / "one", "", 4), tmp_path / "photographs"
    other.mkdir()
    image(0).save(other / "a.png")
    with pytest.raises(UsageError, match="photographs holds no images beside masks"):
        masks(root, evaluate=str(other))
    with pytest.raises(UsageError, match="nothing is left to train on"):
        masks(root, evaluate=str(root))
    (root / "classes.txt").write_text("a\nb\nc\n")
    (judged := write(tmp_path / "two", "", 4, first=20)).joinpath("classes.txt").write_text("c\nb\na\n")
    with pytest.raises(UsageError, match="the classes of one and two differ: their order is not the same"):
        masks(root, evaluate=str(judged))
    with pytest.raises(UsageError, match="has one image only"):
        masks(write(tmp_path / "single", "", 1))
