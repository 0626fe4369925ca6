"""Run the user's own Python code, named as ``package.module:callable``."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compressor.core import UsageError

__all__ = ["call", "importing_from_here"]


def call(source: str) -> Any:
    """Call ``package.module:callable`` without arguments and return its value. Raises UsageError where it fails."""
    name, _, attribute = source.partition(":")
    # stdout is for results: what the user's code prints goes to stderr.
    with importing_from_here(), contextlib.redirect_stdout(sys.stderr):
        try:
            return getattr(importlib.import_module(name), attribute)()
        except (Exception, SystemExit) as error:  # it may raise anything
            raise UsageError(
                f"{source} failed: {type(error).__name__}: {error}",
                hint=f"make `python -c 'import {name}; {name}.{attribute}()'` work in this folder",
            ) from error


@contextlib.contextmanager
def importing_from_here() -> Iterator[None]:
    """Put the working directory, where the user's code mostly is, on ``sys.path``, as ``python -m`` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
