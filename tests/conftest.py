"""Fixtures that every test may use."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from places import SHARED


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
