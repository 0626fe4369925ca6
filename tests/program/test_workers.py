"""Several processes under torchrun, and processes that die: the run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from places import TEACHER

pytestmark = pytest.mark.slow

PROFILE = """
[[pass]]
kind = "search"
budget = ["macs=30%"]
evaluations = 1
finalists = 1
processes = 1
[[pass]]
kind = "distill"
hflip = "off"
views = 2
{length}
"""
QUANTISED = """
[[pass]]
kind = "lower"
[[pass]]
kind = "quantize"
method = "qat"
distill = { steps = 3, views = 1, lr = 0.01, hflip = "off" }
"""
EAGER = """
from compressor.cli import main
from compressor.train import loop
loop._CHECKPOINT_SECONDS = 0.0
main()
"""
"""The command line, with a checkpoint after every step."""


def start(folder: Path, profile: Path, output: str, *launcher: str) -> subprocess.Popen[bytes]:
    program = folder / "eager.py"
    program.write_text(EAGER)
    said = ["run", TEACHER, "--data", "builtin:digits", "--target", "host", "--profile", profile, "-o", folder / output]
    with (folder / f"{output}.log").open("ab") as log:
        return subprocess.Popen(
            [*(launcher or (sys.executable,)), str(program), *map(str, said)],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], folder: Path, output: str) -> dict[str, Any]:
    """What the distill pass of a run tells."""
    code = process.wait(300)
    assert code == 0, (folder / f"{output}.log").read_text()
    report = json.loads((folder / output / "report.json").read_text())
    metrics: dict[str, Any] = next(done["metrics"] for done in report["passes"] if done["kind"] == "distill")
    return metrics


def until(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 200
    while not there():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def torchrun(*more: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *more)


def profile(folder: Path, length: str) -> Path:
    path = folder / "profile.toml"
    path.write_text(PROFILE.format(length=length))
    return path


def weights(folder: Path, output: str) -> list[bytes]:
    found = sorted((folder / output / "cache").glob("*/student.safetensors"))
    found += (folder / output / "cache").glob("quantize-*/model.onnx")
    return [path.read_bytes() for path in found]


def searched(folder: Path, output: str, copy: str) -> None:
    """A copy of a run that has searched, and forgot all that came after."""
    shutil.copytree(folder / output, folder / copy)
    for kept in (folder / copy / "cache").iterdir():
        if kept.name.startswith(("training-", "distill-", "lower-", "quantize-")):
            shutil.rmtree(kept)


def checkpoint(folder: Path, output: str) -> Callable[[], bool]:
    return lambda: any((folder / output).glob("cache/training-*/checkpoint.pt"))


def children(process: subprocess.Popen[bytes]) -> Sequence[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in listed if b"eager.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_two_processes_learn_as_one_does_and_one_may_die(tmp_path: Path) -> None:
    length = profile(tmp_path, f"epochs = 1\n{QUANTISED}")
    one = finish(start(tmp_path, length, "one"), tmp_path, "one")
    searched(tmp_path, "one", "two")
    searched(tmp_path, "one", "killed")
    two = finish(start(tmp_path, length, "two", *torchrun()), tmp_path, "two")
    # The same batches; but each process normalises its half by that half's own statistics.
    assert two["steps"] == one["steps"] == 11
    for ours, theirs in zip(one["curve"], two["curve"], strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=0.15)

    process = start(tmp_path, length, "killed", *torchrun("--max-restarts", "1"))
    until(checkpoint(tmp_path, "killed"), process)
    before = children(process)
    assert len(before) == 2
    os.kill(before[1], signal.SIGKILL)
    killed = finish(process, tmp_path, "killed")
    assert "exitcode: -9" in (tmp_path / "killed.log").read_text(), "torchrun saw it die"
    assert killed["curve"] == two["curve"]
    assert weights(tmp_path, "killed") == weights(tmp_path, "two")


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    length = profile(tmp_path, "minutes = 0.05")
    process = start(tmp_path, length, "killed")
    until(checkpoint(tmp_path, "killed"), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    resumed = finish(start(tmp_path, length, "killed"), tmp_path, "killed")
    # resolved.toml has the steps that the minutes became before the kill.
    whole = finish(start(tmp_path, tmp_path / "killed" / "resolved.toml", "whole"), tmp_path, "whole")
    assert whole["steps"] == resumed["steps"]
    assert whole["curve"] == resumed["curve"]
    assert weights(tmp_path, "whole") == weights(tmp_path, "killed")
