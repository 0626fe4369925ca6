"""Files that are whole or not there, on disks with and without room."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from compressor.atomic import clear_partial, partial, refusals, write
from compressor.core import CompressError, Exit, UsageError


def contents(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write(file, "1")
    write(file, "ä")
    assert file.read_bytes() == b"\xc3\xa4"
    write(file, b"\xff")
    assert file.read_bytes() == b"\xff"
    assert contents(tmp_path) == ["a.json"]


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 1,000 bytes, whoever writes it: pytest's own log too, so for one call only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_of_a_file_without_room_nothing_is_left(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    write(file, b"old")
    with pytest.raises(OSError, match="File too large") as caught, small_files():
        write(file, b"x" * 5000)
    assert caught.value.filename == str(file)
    assert file.read_bytes() == b"old"
    assert contents(tmp_path) == ["a.onnx"]


def test_of_an_interrupted_write_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.json", "1")
    assert contents(tmp_path) == []


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, list[str]]] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: seen.append((Path(f"/proc/self/fd/{number}").read_bytes(), contents(tmp_path)))
    )
    write(tmp_path / "a.json", "whole")
    assert seen == [(b"whole", [".a.json.partial"])]


def test_only_what_has_a_temporary_name_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.partial", ".a", "deep/a.onnx", ".gitignore"):
        (tmp_path / name).touch()
    before = contents(tmp_path)
    partial(tmp_path / "deep" / "a.onnx").touch()
    partial(tmp_path / "bundle").mkdir()
    (partial(tmp_path / "bundle") / "model.onnx").touch()
    clear_partial(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize(
    ("name", "named"), [("/there/run/a", "/there/run"), ("/elsewhere/a", "/elsewhere/a"), (None, "/there/run")]
)
def test_a_full_disk_is_no_fault_of_the_user(number: int, name: str | None, named: str) -> None:
    full = pytest.raises(CompressError, match=f"the disk is full: {named}$")
    with full as caught, refusals(Path("/there/run")):
        raise OSError(number, "no room", name)
    assert caught.value.code is Exit.INTERNAL


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG, errno.EIO])
@pytest.mark.parametrize("name", ["/there/run/a", "/there/run", "/there", b"/there/run/a", Path("/there/run/a")])
def test_a_folder_that_cannot_be_written_is(number: int, name: str | bytes | Path) -> None:
    named = "/there/run/a" if "run/a" in os.fsdecode(name) else "/there/run"
    unwritable = pytest.raises(UsageError, match=f"cannot write to {named}: what the system said")
    with unwritable, refusals(Path("/there/run")):
        raise OSError(number, "what the system said", name)


@pytest.mark.parametrize("name", ["/elsewhere/a", "/there/running", None])
def test_what_is_not_about_the_folder_goes_its_way(name: str | None) -> None:
    with pytest.raises(PermissionError), refusals(Path("/there/run")):
        raise PermissionError(errno.EACCES, "no", name)
