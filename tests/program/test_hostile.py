"""Every door, from outside: what is refused is refused soon, in one message, and leaves no trace."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hostile import Case, canary, data, models, onnx
from places import ROOT

pytestmark = pytest.mark.xdist_group("hostile")  # the cases run two at a time, by one fixture
ALL = {f"{door.__name__.partition('.')[2]}: {case.name}": case for door in (models, onnx, data) for case in door.CASES}
BYTES = 1_000_000_000
TWICE = ("(legacy)", "cut to 1/8", "cut to 7/8")
"""Cases that differ from another by the file's format or length alone."""
HEAVY = ("onnx: ten million nodes",)
"""Cases that take all the memory they are allowed, which the tests' own process must not."""
APART = [*HEAVY, *(name for name in list(ALL)[::4] if name not in HEAVY and not name.endswith(TWICE))]
"""The cases that are a process or two each, whose memory and time are metered. CI runs the others in the tests' own."""

# A process in between: what the tests' own process once held would count as the child's.
METER = """
import json, resource, subprocess, sys, time
begun = time.monotonic()
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
told = {"code": code, "bytes": used.ru_maxrss * 1024}
told["seconds"] = min(time.monotonic() - begun, used.ru_utime + used.ru_stime)
json.dump(told, open(sys.argv[1], "w"))
"""


@dataclass(frozen=True)
class Outcome:
    """What a refusal said and took; seconds are those of the clock, or of computing on a busy machine."""

    code: int
    err: str
    bytes: int
    seconds: float
    before: dict[str, tuple[int, ...]]
    after: dict[str, tuple[int, ...]]


def snapshot(place: Path) -> dict[str, tuple[int, ...]]:
    """Everything below a folder: kind, size and time of the last change, which in TMPDIR may be a new one."""
    found = {}
    for path in (place, *place.rglob("*")):
        status = path.lstat()
        changed = 0 if path == place / "tmp" else status.st_mtime_ns
        found[str(path)] = (status.st_mode, status.st_size, changed)
    return found


def prepare(case: Case, place: Path) -> tuple[list[str], dict[str, str]]:
    """Make a case's files below ``place``; return the arguments, and the environment."""
    folder = place / "files"
    for empty in (folder, place / "home", place / "tmp"):
        empty.mkdir(parents=True)
    return case.make(folder), {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}


def refuse(case: Case, place: Path) -> Outcome:
    """Try a case in a process of its own."""
    arguments, own = prepare(case, place)
    environment = {**os.environ, **own, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    before = snapshot(place)
    meter = place.with_suffix(".json")
    command = [sys.executable, "-P", "-m", "compressor", *arguments]
    err, told = metered(command, meter, cwd=place / "files", env=environment)
    return Outcome(told["code"], err, told["bytes"], told["seconds"], before, snapshot(place))


def metered(command: list[str], meter: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", METER, str(meter), *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip
    return done.stderr, json.loads(meter.read_text())


@pytest.fixture(scope="module")
def limit(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds for a refusal: 5, or, on a slow or busy machine, what eight imports of torch take."""
    _, told = metered([sys.executable, "-c", "import torch"], tmp_path_factory.mktemp("meter") / "torch.json")
    return max(5.0, 8 * float(told["seconds"]))


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Outcome]]]:
    """All the cases that were asked for, two at a time."""
    items = [item for item in request.session.items if item.originalname == "test_refused"]
    asked = [item.callspec.params["name"] for item in items if item.path == Path(__file__)]
    root = tmp_path_factory.mktemp("hostile")
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(refuse, ALL[name], root / str(i)) for i, name in enumerate(asked)}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if i % 12 != 1 else name for i, name in enumerate(APART)]
)
def test_refused(name: str, outcomes: dict[str, Future[Outcome]], limit: float) -> None:
    outcome = outcomes[name].result()
    check(ALL[name], outcome)
    assert outcome.bytes < BYTES
    assert outcome.seconds < limit


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in APART])
def test_refused_here(name: str, compress: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, own = prepare(ALL[name], tmp_path)
    for variable, value in own.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("tempfile.tempdir", None)  # it is looked up again
    monkeypatch.chdir(tmp_path / "files")
    before = snapshot(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    done = compress(*arguments)
    deadline = time.monotonic() + 20  # a thread that an earlier test left may be at work under a limit of its own
    while resource.getrlimit(resource.RLIMIT_AS) != limit and time.monotonic() < deadline:
        time.sleep(0.1)
    assert resource.getrlimit(resource.RLIMIT_AS) == limit
    check(ALL[name], Outcome(done.code, done.err, 0, 0.0, before, snapshot(tmp_path)))


def check(case: Case, outcome: Outcome) -> None:
    assert outcome.code == case.exit, outcome.err
    lines = outcome.err.splitlines()
    assert len(lines) == 2, outcome.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("  hint: ")
    assert case.says in outcome.err
    assert "Traceback" not in outcome.err
    assert "internal error" not in outcome.err
    # Neither a canary nor anything else: no output, no temporary file, nothing changed.
    assert not any(Path(path).name == canary(Path()).name for path in outcome.after)
    assert outcome.after == outcome.before
