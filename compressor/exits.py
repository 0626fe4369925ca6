"""How ``compress`` ends: one message, its hint and the right exit code, also when a signal stops it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn

from compressor.atomic import FULL
from compressor.core import BudgetMissed, CompressError, Exit, Incomplete, Inconclusive, Json, UnsafeInput

__all__ = ["discard", "end", "fail", "heed_signals"]

_MEMORY = (
    "not enough memory",  # torch
    "allocate memory",  # torch, the dynamic linker
    "cannot map",
    "failed to map segment",
    "bad_alloc",  # C++
    "BFCArena",  # ONNX Runtime
    "can't start new thread",
)
"""Words by which libraries report that an allocation failed."""


def heed_signals() -> None:
    """Make Ctrl-C, a scheduler's SIGTERM and a closing terminal end the program with exit code 130.

    The program ends at once and cleans up nothing. A run's folder is whole at every moment, since a run may be killed
    outright as well. An exception raised by a signal handler could get lost in the library that it interrupts.
    """
    program = os.getpid()
    what, hint = "stopped", "the same command goes on from where it was"

    def stop(*_: object) -> NoReturn:
        if os.getpid() == program and _reports():  # a forked worker reports nothing
            if "--json" in sys.argv:
                _put(1, _document(what, hint, Exit.STOPPED))
            # Clear the progress line and show the cursor, which it hides.
            _put(2, ("\r\x1b[K\x1b[?25h" if os.isatty(2) else "") + _message(what, hint))
        os._exit(Exit.STOPPED)

    _on_signal(stop)


def end(code: int) -> NoReturn:
    """Exit with ``code``, also if a signal arrives from here on."""
    _on_signal(lambda *_: os._exit(code))
    for stream in (sys.stdout, sys.stderr):
        _say(stream, "")  # flushes here, since a failure of Python's own flush at exit would change the exit code
    sys.exit(code)


def fail(error: Exception) -> NoReturn:
    """Print what was wrong and its hint, and exit with its exit code."""
    what, hint, code = _verdict(error)
    # With a missed limit, or work done in part, the command printed its one document, which names the shortfall.
    if "--json" in sys.argv and not isinstance(error, BudgetMissed | Incomplete | Inconclusive) and _reports():
        _say(sys.stdout, _document(what, hint, code))
    _say(sys.stderr, _message(what, hint))
    end(code)


def _reports() -> bool:
    """Tell whether this is the main process of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def discard(stream: IO[str]) -> None:
    """Redirect a stream to /dev/null, after its reader went away (as `head` does) or its disk got full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _on_signal(handler: Callable[..., Any]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(number, handler)


def _verdict(error: Exception) -> tuple[str, str | None, Exit]:
    from typer.exceptions import TyperException

    causes = list(_causes(error))
    if any(map(_out_of_memory, causes)) and not isinstance(error, UnsafeInput):
        hint = "end other programs, or take a machine with more memory: the same command goes on from there"
        return "out of memory", hint, Exit.INTERNAL
    if homeless := next((str(each) for each in causes if "No usable temporary directory" in str(each)), None):
        return homeless, "free some space in /tmp, or name another folder with TMPDIR", Exit.INTERNAL
    if isinstance(error, CompressError):
        return error.what, error.hint, error.code
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        return error.format_message(), f"{context.command_path if context else 'compress'} --help", Exit.USAGE
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full: {error.filename or 'stdout'}", "free some space", Exit.INTERNAL
    hint = "this is a fault of compress: the run's logs/run.log has the traceback"
    return f"internal error: {type(error).__name__}: {error}", hint, Exit.INTERNAL


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the one that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that an allocation failed."""
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY)


def _message(what: str, hint: str | None) -> str:
    lines = [f"error: {what.strip()}"] + ([f"  hint: {hint}"] if hint else [])
    # A file's name may hold escape codes and newlines: they are printed as text.
    return "".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) + "\n" for line in lines)


def _document(what: str, hint: str | None, code: Exit) -> str:
    document: Json = {"error": {"what": what, "hint": hint, "exit": int(code)}}
    return json.dumps(document, indent=2) + "\n"


def _say(stream: IO[str] | None, text: str) -> None:
    """Write to a stream. A stream that is closed or fails is given up: the exit code reports the failure too."""
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        discard(stream)


def _put(descriptor: int, text: str) -> None:
    """Write to a file descriptor, since a signal may have interrupted a write to Python's own stream."""
    with contextlib.suppress(OSError):
        os.write(descriptor, text.encode())
