"""Whole runs on disk, made once for all tests that look at them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
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


def once(factory: pytest.TempPathFactory, name: str, *arguments: object) -> Run:
    """The run ``compress run ARGUMENTS...``, made by whichever of pytest's processes asks for it first."""
    base = factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    home.mkdir(exist_ok=True)
    done = home / "done.json"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            (home / "here").mkdir()
            begun = time.monotonic()
            ran = subprocess.run(
                [sys.executable, "-m", "compressor", "run", *map(str, arguments), "-o", "run", "--json"],
                capture_output=True, text=True, cwd=home / "here", timeout=600,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            done.write_text(json.dumps([ran.returncode, ran.stdout, ran.stderr, time.monotonic() - begun]))
    code, out, err, seconds = json.loads(done.read_text())
    assert code == 0, err
    return Run(home / "here" / "run", out, err, seconds)
