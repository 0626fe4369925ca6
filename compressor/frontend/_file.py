"""Model files: regular ones, of a size that this machine can hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from compressor.core import UsageError

__all__ = ["open_model_file"]

_KINDS = {
    stat.S_IFDIR: ("a directory", "name the model file in it"),
    stat.S_IFIFO: ("a named pipe", "write its content to a file first"),
    stat.S_IFSOCK: ("a socket", "name the model file"),
    stat.S_IFCHR: ("a device", "name the model file"),
    stat.S_IFBLK: ("a device", "name the model file"),
}


@contextmanager
def open_model_file(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading. Raises UsageError for anything else, without waiting for it."""
    try:
        _check(path, path.stat())
        # O_NONBLOCK: a pipe may have taken the file's place meanwhile, and would wait for a writer.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        _check(path, os.fstat(file.fileno()))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"there is no file {path}", hint="name a .pt, .pth or .safetensors file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read {path}: {reason}", hint="check its name and its permissions") from error
    with file:
        yield file


def _check(path: Path, status: os.stat_result) -> None:
    if kind := _KINDS.get(stat.S_IFMT(status.st_mode)):
        raise UsageError(f"{path} is {kind[0]}, not a model file", hint=kind[1])
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if status.st_size > memory // 2:
        raise UsageError(
            f"{path} has {status.st_size:,} bytes; this machine's memory has {memory:,}",
            hint="read it where it takes less than half of the memory",
        )
