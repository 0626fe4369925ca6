"""The ``compress`` application: its commands, and the exit code of each failure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from compressor import __version__
from compressor.cli.bench import bench
from compressor.cli.doctor import doctor
from compressor.cli.explain import explain
from compressor.cli.gate import gate
from compressor.cli.inspect import inspect
from compressor.cli.profiles import profiles
from compressor.cli.rank import rank
from compressor.cli.report import report
from compressor.cli.run import run
from compressor.cli.targets import targets
from compressor.cli.upscale import upscale
from compressor.cli.verify import verify
from compressor.core import Exit, UsageError
from compressor.exits import discard, end, fail, heed_signals

__all__ = ["main"]

_COMMANDS = (run, rank, bench, gate, verify, upscale, inspect, explain, report, targets, profiles, doctor)
"""Every command, in the order of ``compress --help``."""


def main() -> NoReturn:
    """Run the command line and exit. A failure prints one message with its hint and has its own exit code."""
    heed_signals()
    try:
        # Not standalone: typer would print usage errors and exit in its own way.
        code = _app()(standalone_mode=False)
        if sys.stdout is not None:  # None where a shell closed it
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as stop:
        if not isinstance(stop if isinstance(stop, OSError) else stop.__context__, BrokenPipeError):
            raise
        discard(sys.stdout)  # typer exits with 1 here, but a reader that has read enough is no failure
        code = Exit.OK
    except Exception as error:  # noqa: BLE001 - the last handler: no traceback reaches the user
        fail(error)
    end(code if isinstance(code, int) else Exit.OK)


def _app() -> typer.Typer:
    app = typer.Typer(
        name="compress",
        help="From a PyTorch teacher to a measured, verified bundle for a small board.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in _COMMANDS:
        app.command()(command)
    app.callback()(_before_any_command)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"compress {__version__}")
        raise typer.Exit


def _before_any_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:  # the libraries that are loaded later do not handle this
        raise UsageError("the working directory does not exist any more", hint="cd to one that does") from error
