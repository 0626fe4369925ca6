"""How ``compress`` ends: one message, its mend and the right exit code, also when it is told to stop."""

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
"""How libraries word that an allocation failed."""


def heed_signals() -> None:
    """From here on Ctrl-C, a scheduler's SIGTERM and a closing terminal end the program with exit code 130.

    At once, and nothing is tidied up: a run's folder is whole at every moment, as it may as well be killed outright,
    and an exception out of a signal handler would get lost in the libraries that are at work.
    """
    program = os.getpid()
    what, hint = "stopped", "the same command goes on from where it was"

    def stop(*_: object) -> NoReturn:
        if os.getpid() == program and _speaks():  # a forked worker has nothing to say
            if "--json" in sys.argv:
                _put(1, _document(what, hint, Exit.STOPPED))
            # The progress line is wiped away, and its hidden cursor shown again.
            _put(2, ("\r\x1b[K\x1b[?25h" if os.isatty(2) else "") + _message(what, hint))
        os._exit(Exit.STOPPED)

    _on_signal(stop)


def end(code: int) -> NoReturn:
    """Leave with ``code``: a signal from here on only hurries it."""
    _on_signal(lambda *_: os._exit(code))
    for stream in (sys.stdout, sys.stderr):
        _say(stream, "")  # what is left to write, while a failure can still be told from one of Python's own
    sys.exit(code)


def fail(error: Exception) -> NoReturn:
    """Tell what was wrong, with its mend, and leave with its exit code."""
    what, hint, code = _verdict(error)
    # With a missed limit, or work that is done in part, stdout has its one document already, which names the shortfall.
    if "--json" in sys.argv and not isinstance(error, BudgetMissed | Incomplete | Inconclusive) and _speaks():
        _say(sys.stdout, _document(what, hint, code))
    _say(sys.stderr, _message(what, hint))
    end(code)


def _speaks() -> bool:
    """Whether this process is the run's only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def discard(stream: IO[str]) -> None:
    """Let nothing more fail on a stream whose reader went away, as `head` does, or whose disk is full."""
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
    """An error, and those that it came of, as libraries and this program wrap them."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, in whosever words."""
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY)


def _message(what: str, hint: str | None) -> str:
    lines = [f"error: {what.strip()}"] + ([f"  hint: {hint}"] if hint else [])
    # A file's name may hold escape codes and newlines: they are shown, not obeyed.
    return "".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) + "\n" for line in lines)


def _document(what: str, hint: str | None, code: Exit) -> str:
    document: Json = {"error": {"what": what, "hint": hint, "exit": int(code)}}
    return json.dumps(document, indent=2) + "\n"


def _say(stream: IO[str] | None, text: str) -> None:
    """Write where somebody listens; the exit code says it too."""
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        discard(stream)


def _put(descriptor: int, text: str) -> None:
    """Write past Python's streams, which a signal may have caught in the middle of a write."""
    with contextlib.suppress(OSError):
        os.write(descriptor, text.encode())
