"""A run that is killed, stopped, starved of disk or raced: nothing half-written, and the same command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from places import ROOT, TEACHER
from runs import QUICK, Run

from compressor.bundle import verify_bundle

Compress = Callable[..., Any]
RUN = ("run", TEACHER, "--target", "host", "--profile", "ptq", *QUICK)
"""The arguments of the fixture `digits_ptq`, whose model an undisturbed run comes to."""
STOPPED = ["error: stopped", "  hint: the same command goes on from where it was"]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start the run of `digits_ptq` in a process group of its own, as a shell does."""
    temporary = folder.parent / f"{folder.name}.tmp"
    temporary.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "compressor", *map(str, RUN), "-o", str(folder), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def messages(said: str) -> list[str]:
    """What was said on stderr, but for the line that each finished pass gets."""
    return [line for line in said.splitlines() if not line.startswith("[")]


def check_whole(folder: Path) -> None:
    """Every file that has its final name is whole; a bundle, where there is one, verifies."""
    readers = {
        ".json": lambda p: json.loads(p.read_text()),
        ".onnx": lambda p: onnx.checker.check_model(onnx.load(p), full_check=True),
        ".npz": lambda p: [np.load(p)[key] for key in np.load(p)],
        ".safetensors": safetensors.numpy.load_file,
        ".toml": lambda p: tomllib.loads(p.read_text()),
        ".html": lambda p: p.read_text().rstrip().endswith("</html>") or pytest.fail(f"{p} is cut off"),
        ".py": lambda p: compile(p.read_text(), str(p), "exec"),
        ".log": lambda p: p.read_text(),
    }
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            readers[path.suffix](path)
    if (folder / "bundle").exists():
        verify_bundle(folder / "bundle")


def check_finished(folder: Path, compress: Compress, whole: Run) -> None:
    """Let the same command go on: it ends with the model of a run that nothing disturbed, and leaves no half file."""
    done = compress(*RUN, "-o", folder)
    assert done.code == 0, done.err
    check_whole(folder)
    assert not list(folder.rglob(".*.partial"))
    assert (folder / "bundle" / "model.onnx").read_bytes() == whole.model


@pytest.mark.slow
@pytest.mark.parametrize("third", [0, 1, 2])
def test_killed_at_a_random_moment(third: int, digits_ptq: Run, compress: Compress, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = start(folder)
    time.sleep(random.uniform(third / 3, (third + 1) / 3) * digits_ptq.seconds)
    with contextlib.suppress(ProcessLookupError):  # it may have been done already
        os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    check_whole(folder)
    check_finished(folder, compress, digits_ptq)


@pytest.mark.slow
@pytest.mark.parametrize("awaited", ["teacher/model.safetensors", "cache/verify-*", "bundle"])
def test_killed_just_after_a_write(awaited: str, digits_ptq: Run, compress: Compress, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = start(folder)
    deadline = time.monotonic() + 300
    while not list(folder.glob(awaited)) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    check_whole(folder)
    check_finished(folder, compress, digits_ptq)


@pytest.mark.slow
def test_a_terminal_that_goes_away(digits_ptq: Run, compress: Compress, tmp_path: Path) -> None:
    """SIGHUP; SIGINT and SIGTERM are sent in tests/test_pipeline.py."""
    folder = tmp_path / "run"
    run = start(folder)
    time.sleep(0.6 * digits_ptq.seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGHUP)  # as a terminal does it: to the program and its children
    out, said = run.communicate()
    if run.returncode != 0:  # it may have been done already
        assert (run.returncode, out, messages(said)) == (130, "", STOPPED)
    check_whole(folder)
    check_finished(folder, compress, digits_ptq)


@pytest.mark.slow
def test_stopped_while_it_starts(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = start(folder, "--json")
    while not (folder / "inputs.json").exists() and run.poll() is None:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    out, said = run.communicate()
    assert run.returncode == 130
    assert json.loads(out)["error"]["exit"] == 130
    assert messages(said) == STOPPED
    check_whole(folder)


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(digits_ptq: Run, compress: Compress, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = start(folder)
    try:
        while not (folder / "inputs.json").exists() and first.poll() is None:
            time.sleep(0.01)
        second = compress(*RUN, "-o", folder)
        assert second.code == 2
        assert "another run is using" in second.err
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    check_finished(folder, compress, digits_ptq)  # the kernel has let go of a killed run's lock


# -- full disks -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB to begin with."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_full_disk(small_disk: Path, digits_ptq: Run, compress: Compress, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk grows little by little: it is full in one pass after the other, in the bundle, in the report."""
    folder = small_disk / "run"
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    for kilobytes in range(64, 6400, 250):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
        run = compress(*RUN, "-o", folder)
        check_whole(folder)
        if run.code == 0:
            break
        told = messages(run.err)
        assert run.code == 1, run.err
        assert f"the disk is full: {small_disk}" in told[0], run.err
        assert len(told) == 2, run.err
    assert kilobytes > 1000, "it was full in the first pass only"
    assert (folder / "bundle" / "model.onnx").read_bytes() == digits_ptq.model


# -- places that cannot be written --------------------------------------------------------------


def refused(compress: Compress, *arguments: object) -> str:
    run = compress("run", TEACHER, "--target", "host", *arguments)
    assert run.code == 2, run.err
    assert len(messages(run.err)) == 2
    return str(run.err)


def test_an_output_that_is_a_file(compress: Compress, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "cannot write" in refused(compress, "-o", tmp_path / "taken")
    assert "cannot write" in refused(compress, "-o", tmp_path / "taken" / "run")
    assert (tmp_path / "taken").read_text() == "mine"


def test_somebody_elses_folder(compress: Compress, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    assert "something other than a run" in refused(compress, "-o", tmp_path / "photos", "--fresh")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_name_that_is_too_long(compress: Compress, tmp_path: Path) -> None:
    assert "cannot write" in refused(compress, "-o", tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_read_only_folder(compress: Compress, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot write" in refused(compress, "-o", tmp_path / "locked" / "run")


@pytest.mark.slow
def test_a_damaged_cache_is_made_again(digits_ptq: Run, compress: Compress, tmp_path: Path) -> None:
    folder = shutil.copytree(digits_ptq.folder, tmp_path / "run")
    (model,) = folder.glob("cache/quantize-*/model.onnx")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0xFF
    model.write_bytes(content)
    shutil.rmtree(folder / "bundle")
    check_finished(folder, compress, digits_ptq)
