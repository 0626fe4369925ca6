"""Every kind of data source, and every way in which it can be bad."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sessions import FunctionSession

from compressor.core import InputSpec, Normalization, UnsafeInput, UsageError
from compressor.data import default_size, load_data
from compressor.data._images import decode, fit
from compressor.preprocessing import NORMALIZATIONS
from compressor.tasks.classification import Classification

SMALL = InputSpec(3, 8, 8)
UNIT = NORMALIZATIONS["unit"]
GREY = Normalization("unit", 1 / 255, (0.0,), (1.0,))


def encoded(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def half(prefix: str, count: int, seed: int, classes: str = "ab") -> dict[str, bytes]:
    return {
        f"{prefix}{c}/{i:03}.png": encoded(seed + 1000 * n + i) for n, c in enumerate(classes) for i in range(count)
    }


def folder(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def zipped(path: Path, files: dict[str, bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as out:
        for name, data in files.items():
            out.writestr(name, data)
    return str(path)


def npz(path: Path, **arrays: object) -> str:
    np.savez(path, **arrays)
    return str(path)


def pixels(seed: int, n: int = 20, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def refused(source: str | None, *words: str, evaluate: str | None = None) -> None:
    with pytest.raises(UsageError) as caught:
        load_data(source, evaluate=evaluate)
    assert caught.value.hint
    for word in words:
        assert word in caught.value.what


# -- folders and zips ---------------------------------------------------------------------------


@pytest.mark.parametrize("judge", ["test", "val", "valid", "Validation"])
def test_folder_with_halves(tmp_path: Path, judge: str) -> None:
    source = load_data(folder(tmp_path / "set", half("train/", 5, 0) | half(f"{judge}/", 3, 500)))
    assert source.classes == ("a", "b")
    assert source.size == SMALL
    assert (len(source.train or ()), len(source.evaluate)) == (10, 6)
    assert source.evaluate.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.evaluate.name == f"set {judge.lower()}"
    assert source.notes == ()
    assert default_size(source) == (8, 8)


def test_one_set_has_one_fingerprint_however_it_is_packed(tmp_path: Path) -> None:
    train, test = half("", 4, 0), half("", 3, 500)
    both = {f"train/{n}": d for n, d in train.items()} | {f"test/{n}": d for n, d in test.items()}
    zipped(tmp_path / "two/train.zip", {f"train/{n}": d for n, d in train.items()})
    zipped(tmp_path / "two/test.zip", test)
    packed = [
        folder(tmp_path / "plain", both),
        folder(tmp_path / "wrapped", {f"set/{n}": d for n, d in both.items()}),
        zipped(tmp_path / "one.zip", both),
        zipped(tmp_path / "wrapped.zip", {f"./x/set/{n}": d for n, d in reversed(both.items())}),
        str(tmp_path / "two"),
    ]
    sources = [load_data(p) for p in packed]
    assert len({s.evaluate.fingerprint for s in sources}) == 1
    assert len({s.train.fingerprint for s in sources if s.train}) == 1
    for source in sources[1:]:
        np.testing.assert_array_equal(source.evaluate.pixels(None, SMALL), sources[0].evaluate.pixels(None, SMALL))


def test_fingerprint_tells_content_name_and_label(tmp_path: Path) -> None:
    files = half("", 4, 0)
    changed = files | {"a/000.png": encoded(77)}
    renamed = {n.replace("a/000", "a/zzz"): d for n, d in files.items()}
    moved = {n.replace("a/000", "b/zzz"): d for n, d in files.items()}
    prints = [
        load_data(None, evaluate=zipped(tmp_path / f"{n}.zip", f)).evaluate.fingerprint
        for n, f in enumerate((files, changed, renamed, moved))
    ]
    assert len(set(prints)) == 4


def test_class_folders_hold_out_a_fifth_of_every_class(tmp_path: Path) -> None:
    path = folder(tmp_path, half("", 10, 0) | half("", 3, 500, "c"))
    source, again = load_data(path), load_data(path)
    assert source.train is not None
    assert np.bincount(source.evaluate.labels).tolist() == [2, 2, 1]
    assert np.bincount(source.train.labels).tolist() == [8, 8, 2]
    assert not set(source.train.rows.tolist()) & set(source.evaluate.rows.tolist())
    assert source.evaluate.fingerprint == again.evaluate.fingerprint
    assert any("held out 20 %" in note and "no test half" in note for note in source.notes)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load_data(folder(tmp_path, half("", 5, 0, ["train", "bus"]))).classes == ("bus", "train")  # type: ignore[arg-type]


def test_what_is_no_image_is_ignored_and_counted(tmp_path: Path) -> None:
    extra = {"a/notes.txt": b"x", "a/b.GIF": b"x", "a/.DS_Store": b"x", "__MACOSX/a/000.png": b"x", ".git/x.png": b"x"}
    for path in (
        folder(tmp_path / "set", half("", 5, 0) | extra | {"cover.png": encoded(1)}),
        zipped(tmp_path / "set.zip", half("", 5, 0) | extra | {"cover.png": encoded(1)}),
    ):
        source = load_data(path)
        assert len(source.train or ()) + len(source.evaluate) == 10
        assert any(n.startswith("2 files") and ".txt" in n for n in source.notes)
        assert any(n.startswith("1 images") and "outside" in n for n in source.notes)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", half("", 5, 0, "b"))
    folder(tmp_path / "set", half("", 5, 500, "a"))
    (tmp_path / "set/b").symlink_to(tmp_path / "elsewhere/b")
    (tmp_path / "set/a/loop").symlink_to(tmp_path / "set")
    source = load_data(str(tmp_path / "set"))
    assert len(source.train or ()) + len(source.evaluate) == 10


def test_unused_halves_are_named(tmp_path: Path) -> None:
    files = half("train/", 3, 0) | half("test/", 3, 500) | half("val/", 3, 700)
    source = load_data(folder(tmp_path / "set", files))
    assert source.evaluate.name == "set test"
    assert any("val of set is not used" in n for n in source.notes)


def test_bad_layouts(tmp_path: Path) -> None:
    refused(str(tmp_path / "none"), "no such data")
    refused("", "no such data")
    refused("x" * 5000, "read")
    refused(None, "no data")
    refused(folder(tmp_path / "empty", {"readme.txt": b"x"}), "no images")
    refused(zipped(tmp_path / "empty.zip", {"readme.txt": b"x"}), "no images", "empty.zip")
    refused(folder(tmp_path / "flat", {"0.png": encoded(0)}), "one photograph only")
    refused(folder(tmp_path / "one", half("", 3, 0, "a")), "one class only")
    (tmp_path / "hollow/c").mkdir(parents=True)
    refused(folder(tmp_path / "hollow", half("", 3, 0)), "class folder c")
    refused(zipped(tmp_path / "hollow.zip", half("", 3, 0) | {"c/": b""}), "class folder c")
    refused(folder(tmp_path / "differ", half("train/", 3, 0) | half("test/", 3, 9, "ac")), "differ", "b", "c")
    refused(folder(tmp_path / "single", half("", 1, 0) | half("", 1, 9, "c")), "no class has two samples")


@pytest.mark.parametrize("name", ["../evil/a/1.png", "/abs/a/1.png", "a/../../1.png", "C:/a/1.png", "..\\a\\1.png"])
def test_zip_members_outside_of_the_zip(tmp_path: Path, name: str) -> None:
    refused(zipped(tmp_path / "bad.zip", half("", 3, 0) | {name: encoded(0)}), "outside of the zip", "bad.zip")


def test_broken_files(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("hello")
    refused(str(plain), "plain.txt")
    whole = Path(zipped(tmp_path / "whole.zip", half("", 9, 0)))
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole.read_bytes()[:-40])
    refused(str(cut), "truncated")
    rotten = tmp_path / "rotten.zip"
    data = bytearray(whole.read_bytes())
    data[100] ^= 255  # the first member's content no longer has its checksum
    rotten.write_bytes(data)
    refused(str(rotten), "rotten.zip", "a/000.png")


@pytest.mark.parametrize(("kind", "keep"), [("PNG", 120), ("JPEG", 300), ("BMP", 100), ("WEBP", 60), ("PPM", 40)])
def test_a_corrupt_image_is_named(tmp_path: Path, kind: str, keep: int) -> None:
    files = half("train/", 3, 0) | half("test/", 3, 9)
    files[f"test/b/broken.{kind.lower()}"] = encoded(3, (20, 20), kind=kind)[:keep]
    with pytest.raises(UsageError, match="test/b/broken"):
        load_data(folder(tmp_path, files)).evaluate.pixels(None, SMALL)


def test_an_empty_or_vanished_image_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path, half("train/", 3, 0) | half("test/", 3, 9))
    source = load_data(path)
    (tmp_path / "test/a/001.png").unlink()
    with pytest.raises(UsageError, match="test/a/001"):
        source.evaluate.pixels(None, SMALL)
    (tmp_path / "test/a/001.png").write_bytes(b"")
    refused(path, "test/a/001.png")


def test_broken_images_are_all_counted_before_a_run_begins(tmp_path: Path) -> None:
    broken = {f"a/{n}.png": encoded(n, (20, 20))[:100] for n in range(3)}
    for path in (
        folder(tmp_path / "set", half("", 5, 0) | broken),
        zipped(tmp_path / "set.zip", half("", 5, 0) | broken),
    ):
        refused(path, "a/0.png", "(and 2 others)")


def test_whole_images_with_something_after_them_are_taken(tmp_path: Path) -> None:
    odd = {f"a/{kind}.{kind.lower()}": encoded(n, kind=kind) + b"\0\0" for n, kind in enumerate(("PNG", "JPEG", "BMP"))}
    assert len(load_data(None, evaluate=folder(tmp_path, half("", 3, 50) | odd)).evaluate) == 9


def test_of_a_large_set_some_images_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressor.data._folder._CHECKED_BYTES", 400)
    files = half("train/", 30, 0) | half("test/", 3, 500) | {"train/b/029.png": encoded(1, (20, 20))[:100]}
    with pytest.raises(UsageError, match="train/b/029"):
        load_data(folder(tmp_path, files)).train.pixels(None, SMALL)  # type: ignore[union-attr]


@pytest.mark.parametrize("place", ["a/x.png", "x.png", "a/pipe"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, place: str) -> None:
    path = folder(tmp_path, half("", 5, 0))
    os.mkfifo(tmp_path / place)
    if place == "a/x.png":
        refused(path, "a/x.png is no regular file")
    else:  # in no class, or no image
        load_data(path)


def test_links_in_circles_end(tmp_path: Path) -> None:
    path = folder(tmp_path, half("", 5, 0))
    (tmp_path / "a" / "to").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to").symlink_to(tmp_path / "a")
    source = load_data(path)  # a, a/to, b, b/to: and no further
    assert len(source.train or ()) < 20
    places = [tmp_path / "a" / str(n) for n in range(9)]
    for each in places:
        each.mkdir()
        for other in places:
            (each / other.name).symlink_to(other)
    refused(path, "circles")


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    path = folder(tmp_path, half("", 5, 0))
    os.truncate(tmp_path / "a/001.png", 1 << 40)
    refused(path, "a/001.png has 1,099,511,627,776 bytes")


def test_zip_members_that_are_odd(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    lzma = zipfile.ZipInfo("a/lzma.png")
    lzma.compress_type = zipfile.ZIP_LZMA
    cases = [(link, "a/link.png is a link"), (lzma, "a/lzma.png is compressed"), ("a\\000.png", "a/000.png is in the")]
    for info, word in cases:
        path = Path(zipped(tmp_path / "odd.zip", half("", 3, 0)))
        with zipfile.ZipFile(path, "a") as out:
            out.writestr(info, encoded(0))
        refused(str(path), "odd.zip", word)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/\xff\x1b[31m"
    folder(Path(os.fsdecode(root)), half("", 5, 0))
    for name in (b"/b/\xfe.png", b"/b/\n.png"):
        Path(os.fsdecode(root + name)).write_bytes(encoded(9 + name[3]))
    Path(os.fsdecode(root + b"/b/x.\xfe\x1b")).touch()
    source = load_data(os.fsdecode(root))
    assert len(source.train or ()) + len(source.evaluate) == 12
    told = [*source.notes, source.evaluate.name]
    assert any("1 files" in note for note in told)
    assert all(note.isprintable() for note in told)
    Path(os.fsdecode(root + b"/b")).rename(os.fsdecode(root + b"/\xfe"))
    refused(os.fsdecode(root), "'\\udcfe'", "cannot be printed")


def test_many_tiny_members(tmp_path: Path) -> None:
    data, path = [encoded(n, (1, 1)) for n in range(2)], tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as out:
        for n in range(20_000):
            out.writestr(f"{'ab'[n % 2]}/{n}.png", data[n % 2])
    assert len(load_data(None, evaluate=str(path)).evaluate) == 20_000


# -- judging on another source --------------------------------------------------------------------


def test_eval_names_another_source(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", half("train/", 4, 0) | half("test/", 3, 500))
    halves = zipped(tmp_path / "halves.zip", half("train/", 4, 600) | half("test/", 2, 700))
    whole = zipped(tmp_path / "whole.zip", half("", 5, 800))
    source = load_data(data, evaluate=halves)
    assert (len(source.train or ()), len(source.evaluate), source.evaluate.name) == (8, 4, "halves.zip test")
    assert any("data test is not used" in n for n in source.notes)
    assert len(load_data(data, evaluate=whole).evaluate) == 10
    assert len(load_data(whole, evaluate=data).train or ()) == 10
    alone = load_data(None, evaluate=whole)
    assert (alone.train, len(alone.evaluate)) == (None, 10)
    assert alone.prepare(SMALL, UNIT, "input").train is None


def test_samples_in_both_halves_are_not_trained_on(tmp_path: Path) -> None:
    train = half("", 5, 0)
    data = folder(tmp_path / "data", train)
    other = zipped(tmp_path / "other.zip", half("", 3, 500) | {"a/copy.png": train["a/002.png"]})
    source = load_data(data, evaluate=other)
    assert len(source.train or ()) == 9
    assert any(n.startswith("1 samples of data are in other.zip too") for n in source.notes)
    refused(data, "nothing is left to train on", evaluate=data)


def test_large_folders_are_known_by_their_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressor.data._folder._HASH_LIMIT", 100)
    source = load_data(folder(tmp_path, half("train/", 3, 0) | half("test/", 3, 500)))
    assert any("not searched for images that are in both" in n for n in source.notes)
    assert len(source.evaluate.fingerprint) == 64


def test_eval_of_other_classes(tmp_path: Path) -> None:
    data, other = folder(tmp_path / "data", half("", 5, 0)), folder(tmp_path / "other", half("", 5, 50, "abc"))
    refused(data, "only in other: c", evaluate=other)
    seven = npz(tmp_path / "seven.npz", x=pixels(0), y=np.arange(20) % 7)
    five = npz(tmp_path / "five.npz", x=pixels(1), y=np.arange(20) % 5)
    assert len(load_data(seven, evaluate=five).classes) == 7
    refused(five, "differ", "5, 6", evaluate=seven)


# -- arrays -----------------------------------------------------------------------------------------


def test_npz_shapes_are_one(tmp_path: Path) -> None:
    x, y = pixels(0, shape=(8, 6, 3)), np.arange(20, dtype=np.uint8) % 4
    spec = InputSpec(3, 8, 6)
    sources = [
        load_data(None, evaluate=npz(tmp_path / f"{n}.npz", x=a, y=y))
        for n, a in enumerate((x, x.transpose(0, 3, 1, 2), x / 255, (x / 255).astype(np.float32)))
    ]
    for source in sources:
        assert (source.size, source.classes) == (spec, ("0", "1", "2", "3"))
        np.testing.assert_array_equal(source.evaluate.pixels(None, spec), x.transpose(0, 3, 1, 2))
    assert len({s.evaluate.fingerprint for s in sources}) == 1
    grey = load_data(npz(tmp_path / "grey.npz", x=x[..., 0], y=y, x_test=pixels(1, 6, (8, 6)), y_test=y[:6]))
    assert (grey.size, len(grey.train or ()), len(grey.evaluate)) == (InputSpec(1, 8, 6), 20, 6)


def test_bad_npz(tmp_path: Path) -> None:
    x, y = pixels(0), np.arange(20) % 2
    bad = tmp_path / "bad.npz"
    nan = x / 255
    nan[3, 3, 3] = np.nan
    cases: list[tuple[dict[str, object], str]] = [
        ({"x": x, "y": y, "x_test": x}, "x_test"),
        ({"x": x, "y": y[:-1]}, "19"),
        ({"x": nan, "y": y}, "nan"),
        ({"x": x.astype(np.float32), "y": y}, "255"),
        ({"x": x.astype(np.int64), "y": y}, "int64"),
        ({"x": x.reshape(20, 64), "y": y}, "(20, 64)"),
        ({"x": pixels(0, shape=(8, 8, 4)), "y": y}, "(20, 8, 8, 4)"),
        ({"x": x[:0], "y": y[:0]}, "(0, 8, 8)"),
        ({"x": x, "y": y - 1}, "-1"),
        ({"x": x, "y": y / 2}, "float64"),
        ({"x": x, "y": y.reshape(-1, 1)}, "(20, 1)"),
        ({"x": x, "y": y + 10**9}, "labels"),
        ({"x": x, "y": y * 0}, "one class"),
    ]
    for arrays, word in cases:
        refused(npz(bad, **arrays), "bad.npz", word)
    npz(bad, x=x, y=y)
    bad.write_bytes(bad.read_bytes()[:500])
    refused(str(bad), "bad.npz")
    refused(zipped(bad, {"x.npy": b"no array", "y.npy": b""}), "bad.npz")


def test_what_a_pickle_would_run_is_not_run(tmp_path: Path) -> None:
    for change in ({"x": np.array([{}] * 20, dtype=object)}, {"y": np.array([1] * 20, dtype=object)}):
        with pytest.raises(UnsafeInput, match=r"bad\.npz: . is an array of Python objects"):
            load_data(npz(tmp_path / "bad.npz", **({"x": pixels(0), "y": np.arange(20) % 2} | change)))
    for protocol in range(2, 6):
        (tmp_path / "raw.npz").write_bytes(pickle.dumps({"x": 1}, protocol))
        with pytest.raises(UnsafeInput, match="is a pickle"):
            load_data(str(tmp_path / "raw.npz"))


def test_npz_ways_to_save(tmp_path: Path) -> None:
    x, y = pixels(0, shape=(8, 6, 3)), np.arange(20) % 4
    want = load_data(None, evaluate=npz(tmp_path / "plain.npz", x=x, y=y)).evaluate
    np.savez_compressed(tmp_path / "small.npz", x=np.asfortranarray(x), y=y.astype(">i2"), other=np.array([{}]))
    found = load_data(None, evaluate=str(tmp_path / "small.npz")).evaluate
    assert found.fingerprint == want.fingerprint
    blank = np.zeros((20_000, 8, 8), np.uint8)
    np.savez_compressed(tmp_path / "blank.npz", x=blank, y=np.arange(20_000) % 2)  # 500 times smaller
    assert len(load_data(None, evaluate=str(tmp_path / "blank.npz")).evaluate) == 20_000


def test_npz_that_lies(tmp_path: Path) -> None:
    def saved(name: str, x: bytes) -> str:
        return zipped(tmp_path / name, {"x.npy": x, "y.npy": _npy(np.arange(20) % 2)})

    def header(shape: str, kind: str = "|u1") -> bytes:
        text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text

    for shape in ("(1000000, 1000, 1000)", "(20, 8, 9)", "(1000000000000000000, 8, 8)"):
        with pytest.raises(UnsafeInput, match="claims"):
            load_data(saved("over.npz", header(shape) + bytes(20 * 64)))
    for x, word in (
        (header("(20, -8, -8)") + bytes(20 * 64), "header"),
        (header("(1000000000000000000,)", "|V0"), "not of numbers"),
        (header("(20, 8, 8)", "|u1")[:-30], "header"),
        (b"\x93NUMPY\1\0\xff\xff{", "header"),
        (b"\x93NUMPY\2\0\xff\xff\xff\x7f{", "header"),
        (b"\x93NUMPY\3\0\1\0\0\0{", "header"),
        (_npy(np.zeros(20, [("a", "u1")])), "not of numbers"),
        (_npy(np.zeros((20, 8, 8), complex)), "not of numbers"),
    ):
        refused(saved("bad.npz", x), "bad.npz", word)
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as out:
        for name in ("x.npy", "y.npy", "x"):
            out.writestr(name, _npy(np.zeros(2)))
    refused(str(tmp_path / "twice.npz"), "two arrays called x")


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_digits() -> None:
    source = load_data("builtin:digits")
    assert source.size == InputSpec(1, 8, 8)
    assert (len(source.train or ()), len(source.evaluate)) == (1437, 360)
    assert source.evaluate.pixels(None, InputSpec(1, 8, 8)).max() == 255
    assert source.evaluate.fingerprint == load_data("builtin:digits").evaluate.fingerprint
    refused("builtin:digit", "'digit'")


def test_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_source.py").write_text(
        "import numpy as np\n"
        "x = np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8) + np.arange(20, dtype=np.uint8)[:, None, None]\n"
        "y = np.arange(20) % 4\n"
        "def two(): return x, y\n"
        "def four(): return x, y, 255 - x, y\n"
        "def three(): return x, y, x\n"
        "def text(): return 'x', y\n"
        "def fails(): raise KeyError('nothing here')\n"
        "def leaves(): import sys; sys.exit(0)\n"
        "def ragged(): return [[1], [1, 2]], y\n"
        "def talks(): print('hello'); return x, y\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(load_data("my_source:two").evaluate) == 4
    assert len(load_data("my_source:four").evaluate) == 20
    refused("my_source:three", "my_source:three")
    refused("my_source:text", "my_source:text")
    refused("my_source:fails", "nothing here")
    refused("my_source:leaves", "my_source:leaves failed: SystemExit")
    refused("my_source:ragged", "my_source:ragged")
    refused("my_source:y", "my_source:y failed")
    load_data("my_source:talks")
    assert capsys.readouterr().out == ""
    refused("my_source:missing", "missing")
    refused("no_such_module:f", "no_such_module")


# -- pixels ------------------------------------------------------------------------------------------


def test_modes() -> None:
    def decoded(image: Image.Image, channels: int = 3) -> list[int]:
        out = io.BytesIO()
        image.save(out, "PNG")
        return decode(out.getvalue(), InputSpec(channels, *reversed(image.size)), "x")[:, 0, 0].tolist()

    wide = np.array([[32768, 0]], np.uint16)
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30])
    clear = Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    assert decoded(Image.fromarray(wide), 1) == [128]
    assert decoded(Image.fromarray(wide)) == [128] * 3
    assert decoded(palette) == [10, 20, 30]
    assert decoded(clear) == [255] * 3
    assert decoded(clear, 1) == [255]
    assert decoded(Image.new("LA", (2, 2), (7, 255))) == [7] * 3
    assert decoded(Image.new("1", (2, 2), 1), 1) == [255]


def test_fit() -> None:
    image = Image.fromarray(pixels(0, 1, (300, 500, 3))[0])
    np.testing.assert_array_equal(fit(image, InputSpec(3, 300, 500)), np.asarray(image).transpose(2, 0, 1))
    small = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(fit(image, InputSpec(3, 32, 32)), small)
    # torchvision: Resize(256) gives 426 x 256, CenterCrop(224) starts at (101, 16)
    large = np.asarray(image.resize((426, 256), Image.Resampling.BILINEAR))[16:240, 101:325].transpose(2, 0, 1)
    np.testing.assert_array_equal(fit(image, InputSpec(3, 224, 224)), large)
    for shape in ((3, 100, 300), (3, 300, 100), (1, 65, 7)):
        assert fit(image, InputSpec(*shape)).shape == shape


def test_mixtures_are_noted(tmp_path: Path) -> None:
    files = half("", 5, 0) | {"a/grey.png": encoded(90, mode="L"), "b/clear.png": encoded(91, mode="RGBA")}
    source = load_data(folder(tmp_path, files))
    assert any(n.startswith("1 of the 12 images looked at are grey") for n in source.notes)
    assert any(n.startswith("1 of the 12 images looked at have transparency") for n in source.notes)
    assert source.size == SMALL


def test_what_is_done_with_odd_images_is_counted(tmp_path: Path) -> None:
    def saved(image: Image.Image, kind: str, **how: object) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **how)
        return out.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    plain = Image.new("RGB", (8, 8))
    files = half("", 5, 0) | {
        "a/wide.png": saved(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"),
        "a/print.jpg": saved(Image.new("CMYK", (8, 8)), "JPEG"),
        "a/turned.jpg": saved(plain, "JPEG", exif=turned),
        "b/moving.webp": saved(plain, "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
        "b/moving.png": saved(plain, "PNG", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
    }
    source = load_data(None, evaluate=folder(tmp_path, files))
    for count, word in ((1, "16 bits: scaled"), (1, "CMYK"), (1, "EXIF orientation: ignored"), (2, "first frame")):
        assert any(note.startswith(f"{count} of the 15 images looked at") and word in note for note in source.notes)
    seen = {n: decode(d, SMALL, n) for n, d in files.items() if "." in n}
    assert (seen["a/wide.png"] == 156).all()
    assert seen["b/moving.webp"].max() < 8
    assert seen["b/moving.png"].max() == 0


def test_images_that_claim_too_many_pixels(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    head, tail = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x08\x02\0\0\0"
    for width, height in ((60_000, 60_000), (9_000, 9_000), (10_000, 9_500)):
        chunk = head[12:] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + tail
        image = head[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + b"\0\0\0\x0aIDAT"
        with pytest.raises(UnsafeInput, match=r"a/huge\.png claims too many pixels"):
            load_data(folder(tmp_path, half("", 3, 0) | {"a/huge.png": image}))
    assert not recwarn.list


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    refused(folder(tmp_path, half("", 3, 0) | {"a/f.ppm": b"Pf\n2 2\n-1.0\n" + bytes(16)}), "a/f.ppm", "floating")


def test_sizes(tmp_path: Path) -> None:
    mixed = load_data(folder(tmp_path / "mixed", half("", 5, 0) | {"a/wide.png": encoded(9, (30, 20))}))
    assert (mixed.size, default_size(mixed)) == (None, (224, 224))
    large = load_data(npz(tmp_path / "large.npz", x=pixels(0, shape=(65, 65)), y=np.arange(20) % 2))
    assert (large.size, default_size(large)) == (InputSpec(1, 65, 65), (224, 224))
    assert default_size(None) is None


def test_prepared_splits(tmp_path: Path) -> None:
    x, y = pixels(0, 50, (10, 10)), np.arange(50) % 3
    source = load_data(npz(tmp_path / "x.npz", x=x, y=y, x_test=255 - x, y_test=y))
    data = source.prepare(InputSpec(1, 10, 10), Normalization("half", 1 / 255, (0.5,), (0.25,)), "input")
    assert (data.targets, data.classes, data.notes) == ("labels", ("0", "1", "2"), ())
    assert data.train is not None
    assert data.train.fingerprint == source.train.fingerprint  # type: ignore[union-attr]
    batches = [(feeds["input"], labels) for feeds, labels in data.train.batches(16)]
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    assert {images.dtype for images, _ in batches} == {np.dtype(np.float32)}
    images = np.concatenate([images for images, _ in batches])
    np.testing.assert_allclose(images[:, 0], (x / 255 - 0.5) / 0.25, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), y)
    ((feeds, labels),) = data.train.batches(16, np.array([7, 3]))
    assert labels.tolist() == [1, 0]
    np.testing.assert_array_equal(data.train.pixels(np.array([7, 3]))[:, 0], x[[7, 3]])
    part = data.train.take(np.array([7, 3]))
    assert (len(part), part.name, part.labels.tolist()) == (2, "2 of x.npz train", [1, 0])
    assert part.fingerprint != data.train.fingerprint
    np.testing.assert_array_equal(next(part.batches(2)).feeds["input"], feeds["input"])
    assert "resized to 3x5x5" in source.prepare(InputSpec(3, 5, 5), UNIT, "input").notes[-1]
    with pytest.raises(UsageError, match="3 channels"):
        source.prepare(InputSpec(3, 10, 10), GREY, "input")
    with pytest.raises(UsageError, match="1 or 3"):
        source.prepare(InputSpec(4, 10, 10), UNIT, "input")


def test_sample_is_stratified() -> None:
    train = load_data("builtin:digits").train
    assert train is not None
    chosen = train.sample(100)
    assert len(np.unique(chosen)) == 100
    assert set(np.bincount(train.labels[chosen]).tolist()) <= {9, 10, 11}
    assert len(train.sample(10**6)) == len(train)


# -- the task ----------------------------------------------------------------------------------------


def test_classification() -> None:
    split = load_data("builtin:digits").prepare(InputSpec(1, 8, 8), GREY, "input").evaluate
    seen: list[int] = []
    session = partial(FunctionSession, input=InputSpec(1, 8, 8))

    def zeros(batch: np.ndarray) -> np.ndarray:
        return np.eye(10, dtype=np.float32)[np.zeros(len(batch), int)]

    metric, predicted = Classification().evaluate(session(zeros), split, 100, lambda _, done, total: seen.append(done))
    assert seen == [100, 200, 300, 360]
    assert metric.value == float((split.labels == 0).mean())
    assert (metric.name, metric.samples, metric.fingerprint) == ("top1", 360, split.fingerprint)
    assert predicted.tolist() == [0] * 360
    nan, _ = Classification().evaluate(session(lambda b: zeros(b) * np.nan), split, 100, lambda *_: None)
    assert nan.value == 0
    with pytest.raises(UsageError, match="digits test"):
        Classification().evaluate(session(lambda b: zeros(b)[:, :9]), split, 100, lambda *_: None)


# -- the shared CIFAR-10 -----------------------------------------------------------------------------


@pytest.mark.shared
def test_cifar10(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(Image, "open", lambda *a, real=Image.open, **k: opened.append(a) or real(*a, **k))
    source = load_data(str(shared_data / "cifar10"))
    assert 0 < len(opened) < 2_000  # of 60,000: no image is looked at but a sample
    assert source.size == InputSpec(3, 32, 32)
    assert (len(source.train or ()), len(source.evaluate)) == (50_000, 10_000)
    assert source.classes[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(source.evaluate.labels).tolist() == [1000] * 10
    assert source.notes == ()
    feeds, labels = next(source.prepare(InputSpec(3, 32, 32), UNIT, "input").evaluate.batches(256))
    assert feeds["input"].shape == (256, 3, 32, 32)
    assert labels.tolist() == [0] * 256
