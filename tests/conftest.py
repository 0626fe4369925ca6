"""Fixtures that every test may use."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from places import ROOT, SHARED, TEACHER
from runs import QUICK, Run, run_once
from warm import serving

# -- which tests share a process ------------------------------------------------------------------
#
# `make test` runs two processes (`pytest -n 2 --dist loadgroup`). A file's quick tests go to one of them, so that its
# module's fixtures are made once. A slow test goes to whichever is free, unless its file names a group
# (`pytestmark = pytest.mark.xdist_group("board")`). The longest come first.


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            alone = item.get_closest_marker("slow") is not None
            item.add_marker(pytest.mark.xdist_group(item.nodeid if alone else item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The command ``compress``, whose process has the libraries imported already."""
    with serving(tmp_path_factory.mktemp("warm")) as command:
        yield command


# -- runs that several tests look at --------------------------------------------------------------
#
# Each is made by the first test that asks for it, in a process of its own as a user starts it, once for all of
# pytest's processes. They are READ-ONLY: a test that writes into a run's folder copies it first
# (`shutil.copytree(digits_ptq.folder, tmp_path / "run")`; a moved run goes on).
#
#   digits_ptq      the demo's teacher, `--profile ptq --target host`: INT8 by calibration, measured in 5 blocks
#   digits_student  the demo's teacher, its ONNX twin beside it, searched, distilled (33 steps), quantised in training


@pytest.fixture(scope="session")
def digits_ptq(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo's teacher in INT8 for this machine (``--profile ptq``, `QUICK`)."""
    return run_once(tmp_path_factory, "digits-ptq", TEACHER, "--target", "host", "--profile", "ptq", *QUICK)


@pytest.fixture(scope="session")
def digits_student(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A student of the demo's teacher and its twin: searched, distilled, quantised in training, all of it short."""
    from compressor.core import InputSpec, image_signature
    from compressor.frontend import load_checkpoint
    from compressor.lowering.export import export
    from compressor.lowering.save import save

    profile, twin = ROOT / "tests" / "student.toml", tmp_path_factory.mktemp("twin") / "twin.onnx"
    network = load_checkpoint(TEACHER).build().eval()
    save(export(network, *image_signature(InputSpec(1, 32, 32)), 21), twin, "fp32")
    return run_once(
        tmp_path_factory, "digits-student", TEACHER, "--teacher", twin, "--data", "builtin:digits", "--target", "host",
        "--profile", profile, *QUICK,
    )  # fmt: skip


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's shared test data, which is no part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared test data is not at {SHARED}")
    return SHARED


class Done(NamedTuple):
    """What a command line left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def compress() -> Callable[..., Done]:
    """``compress ARGUMENTS...`` in this process, which has imported everything already, and reads models itself."""
    from compressor.cli import main
    from compressor.frontend._child import read_weights

    def run(*arguments: object) -> Done:
        out, err, argv = io.StringIO(), io.StringIO(), sys.argv
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        sys.argv = ["compress", *map(str, arguments)]
        try:
            here = patch("compressor.frontend._loader.read", read_weights)
            with here, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
                main()
        finally:
            sys.argv = argv
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())

    return run
