"""Whole runs on disk, made once for all tests that look at them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from places import ROOT

QUICK = ("--set", "measure.blocks=5", "--set", "measure.inferences=1")
"""A measurement as short as it gets, for tests that do not look at its figures."""


class Run(NamedTuple):
    """A finished run: its folder, what it printed, and the seconds that it took."""

    folder: Path
    out: str
    err: str
    seconds: float

    @property
    def report(self) -> Any:
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"))

    @property
    def model(self) -> bytes:
        return (self.folder / "bundle" / "model.onnx").read_bytes()

    @property
    def passes(self) -> dict[str, Any]:
        """The metrics of each pass, by its kind."""
        return {done["kind"]: done["metrics"] for done in self.report["passes"]}


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` fills, by whichever of pytest's processes asks for it first."""
    base = factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "done").exists():
            shutil.rmtree(home / "here", ignore_errors=True)  # of one that failed
            (home / "here").mkdir()
            make(home / "here")
            (home / "done").touch()
    return home / "here"


def run_once(factory: pytest.TempPathFactory, name: str, *arguments: object) -> Run:
    """The run ``compress run ARGUMENTS...`` in a process of its own, made once (`made_once`)."""

    def make(here: Path) -> None:
        begun = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "compressor", "run", *map(str, arguments), "-o", "run", "--json"],
            capture_output=True, text=True, cwd=here, timeout=600, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        told = {"out": ran.stdout, "err": ran.stderr, "seconds": time.monotonic() - begun}
        here.with_name("told.json").write_text(json.dumps(told))

    here = made_once(factory, name, make)
    return Run(here / "run", **json.loads(here.with_name("told.json").read_text()))
