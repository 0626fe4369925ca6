"""Several processes and one folder: who makes a value, who reads it. The processes are played one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compressor.core import UsageError
from compressor.train import workers


@contextmanager
def process(number: int, there: bool, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Play process ``number`` of two, while the main process sees that the value is ``there``; yields what it did."""
    done: list[str] = []
    with patch.context() as patched:
        patched.setenv("RANK", str(number))
        patched.setenv("WORLD_SIZE", "2")
        patched.setattr(workers, "barrier", lambda device: done.append("barrier"))
        patched.setattr(workers, "broadcast", lambda make, device: make() if number == 0 else there)
        yield done


def steps(file: Path, done: list[str]) -> tuple[Callable[[], str], Callable[[], str | None]]:
    def make() -> str:
        done.append(f"make in {workers.world()}")
        file.write_text("value")
        return "value"

    def read() -> str | None:
        done.append("read")
        return file.read_text() if file.exists() else None

    return make, read


def test_the_main_process_makes_and_the_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    with process(0, False, monkeypatch) as done:
        assert workers.run_once(*steps(file, done), "cpu") == ("value", False)
        assert done == ["read", "make in 1", "barrier"], "it does not count on the others"
    with process(1, False, monkeypatch) as done:
        assert workers.run_once(*steps(file, done), "cpu") == ("value", False)
        assert done == ["read", "barrier", "read"]


def test_all_work_together_where_they_are_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    with process(0, False, monkeypatch) as done:
        workers.run_once(*steps(file, done), "cpu", join=lambda: done.append("join"))
        assert done == ["read", "make in 2", "barrier"]
    with process(1, False, monkeypatch) as done:
        workers.run_once(*steps(file, done), "cpu", join=lambda: done.append("join"))
        assert done == ["read", "join", "barrier", "read"]


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_there_is_not_made_again(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    with process(number, True, monkeypatch) as done:
        assert workers.run_once(*steps(file, done), "cpu", join=lambda: done.append("join")) == ("kept", True)
        assert done == ["read", "barrier"]


def test_what_is_to_be_repeated_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with process(0, False, monkeypatch) as done:
        assert workers.run_once(*steps(file, done), "cpu", repeat=True) == ("value", False)
    with process(1, False, monkeypatch) as done:
        assert workers.run_once(*steps(file, done), "cpu", repeat=True) == ("value", False)
        assert done == ["barrier", "read"]


def test_a_process_that_sees_another_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with process(1, False, monkeypatch) as done, pytest.raises(UsageError, match="process 1 does not see"):
        workers.run_once(*steps(tmp_path / "elsewhere", done), "cpu")


def test_the_main_process_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, expected in ((0, ["make", "barrier"]), (1, ["barrier", "read"])):
        with process(number, False, monkeypatch) as done:
            workers.main_first(lambda done=done: done.append("make"), lambda done=done: done.append("read"), "cpu")
            assert done == expected
