"""A run that is killed, stopped, starved of disk or raced: nothing half-written, and the same command goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from places import ROOT, TEACHER

from compressor.bundle import verify_bundle

STOPPED = ["error: stopped", "  hint: the same command goes on from where it was"]


def start(folder: Path, *more: str, profile: str = "ptq") -> subprocess.Popen[str]:
    """The run of the digits in a process group of its own, as a shell starts it."""
    temporary = folder.parent / f"{folder.name}.tmp"
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "compressor", "run", str(TEACHER), "--target", "host", "--profile", profile]
    return subprocess.Popen(
        [*command, "-o", str(folder), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(folder: Path, *more: str, profile: str = "ptq") -> float:
    """Run to the end. Returns the seconds that it took."""
    begun = time.monotonic()
    run = start(folder, *more, profile=profile)
    _, said = run.communicate()
    assert run.returncode == 0, said
    return time.monotonic() - begun


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


def leftovers(folder: Path) -> list[Path]:
    return [*folder.rglob(".*.partial"), *(folder.parent / f"{folder.name}.tmp").iterdir()]


def model_of(folder: Path) -> bytes:
    return (folder / "bundle" / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """The model of a run that nothing disturbed, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    seconds = finish(folder)
    return model_of(folder), seconds


def kill_and_finish(folder: Path, moment: float, expected: bytes) -> bool:
    """Kill a run ``moment`` seconds after its start, then finish it. Returns whether the kill came in time."""
    run = start(folder)
    time.sleep(moment)
    running = run.poll() is None
    if running:
        os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    check_whole(folder)
    finish(folder)
    check_whole(folder)
    assert not list(folder.rglob(".*.partial"))
    assert model_of(folder) == expected
    return running


@pytest.mark.slow
def test_killed_at_twenty_random_moments(whole: tuple[bytes, float], tmp_path: Path) -> None:
    expected, seconds = whole
    generator = random.Random(20)
    # Two at a time, which makes both slower: a moment is a share of what that takes.
    moments = [generator.uniform(0, 1.5 * seconds) for _ in range(20)]
    with ThreadPoolExecutor(2) as pool:
        killed = list(
            pool.map(lambda job: kill_and_finish(tmp_path / f"run{job[0]}", job[1], expected), enumerate(moments))
        )
    assert sum(killed) >= 12, "most of the kills came after the run had ended"


@pytest.mark.slow
@pytest.mark.parametrize(
    "awaited", ["inputs.json", "teacher/model.safetensors", "cache/lower-*", "cache/verify-*", "bundle"]
)
def test_killed_just_after_a_write(awaited: str, whole: tuple[bytes, float], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = start(folder)
    deadline = time.monotonic() + 300
    while not list(folder.glob(awaited)) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    check_whole(folder)
    finish(folder)
    assert model_of(folder) == whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("share", [0.25, 0.75])
def test_stopped(number: signal.Signals, share: float, whole: tuple[bytes, float], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = start(folder)
    time.sleep(share * whole[1])
    os.killpg(run.pid, number)  # as a terminal does it: to the program and its children
    out, said = run.communicate()
    if run.returncode != 0:  # it may have been done already
        assert (run.returncode, out, messages(said)) == (130, "", STOPPED)
    check_whole(folder)
    finish(folder)
    assert model_of(folder) == whole[0]


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


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = start(folder)
    try:
        while not (folder / "inputs.json").exists() and first.poll() is None:
            time.sleep(0.01)
        second = start(folder)
        _, said = second.communicate()
        assert second.returncode == 2
        assert "another run is using" in said
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    third = start(folder)  # the kernel has let go of a killed run's lock
    deadline = time.monotonic() + 120
    while not list(folder.glob("cache/lower-*")) and third.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert third.poll() is None
    os.killpg(third.pid, signal.SIGKILL)
    third.communicate()


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
def test_full_disk(small_disk: Path, whole: tuple[bytes, float]) -> None:
    """The disk grows little by little: it is full in one pass after the other, in the bundle, in the report."""
    folder = small_disk / "run"
    for kilobytes in range(64, 6400, 250):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
        run = start(folder)
        _, said = run.communicate()
        check_whole(folder)
        if run.returncode == 0:
            break
        told = messages(said)
        assert run.returncode == 1, said
        assert f"the disk is full: {small_disk}" in told[0], said
        assert len(told) == 2, said
    assert kilobytes > 1000, "it was full in the first pass only"
    assert model_of(folder) == whole[0]


# -- places that cannot be written --------------------------------------------------------------


def refused(arguments: Sequence[object], where: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "compressor", "run", TEACHER, "--target", "host", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2, run.stderr
    assert len(messages(run.stderr)) == 2
    return run.stderr


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "cannot write" in refused(["-o", tmp_path / "taken"], tmp_path)
    assert "cannot write" in refused(["-o", tmp_path / "taken" / "run"], tmp_path)
    assert (tmp_path / "taken").read_text() == "mine"


def test_somebody_elses_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    assert "something other than a run" in refused(["-o", tmp_path / "photos", "--fresh"], tmp_path)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "cannot write" in refused(["-o", tmp_path / ("x" * 300)], tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot write" in refused(["-o", tmp_path / "locked" / "run"], tmp_path)


@pytest.mark.slow
def test_a_damaged_cache_is_made_again(whole: tuple[bytes, float], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(folder)
    (model,) = folder.glob("cache/quantize-*/model.onnx")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0xFF
    model.write_bytes(content)
    shutil.rmtree(folder / "bundle")
    finish(folder)
    assert model_of(folder) == whole[0]
