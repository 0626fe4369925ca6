"""Atomic writes, and the errors of a file system that refuses a write."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from compressor.core import CompressError, UsageError

__all__ = ["FULL", "clear_partial", "partial", "refusals", "write"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The error numbers of a full disk, an exceeded quota and a limit on a file's size."""


def write(path: Path, content: bytes | str) -> None:
    """Write a file (text as UTF-8) under a temporary name, then rename it. A failed write leaves nothing behind.

    The content is flushed to the disk before the renaming, so that a power cut leaves the old file or the new one.
    Raises OSError that names the file.
    """
    temporary = partial(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # a write that finds no room names no file, others the temporary one
        raise


def partial(path: Path) -> Path:
    """Return the temporary name of a file or folder that is being written."""
    return path.with_name(f".{path.name}.partial")


def clear_partial(folder: Path) -> None:
    """Remove what killed writers left below ``folder`` under temporary names."""
    for path in list(folder.rglob(partial(Path("*")).name)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """Turn an OSError about ``folder``, or something in it, into an error with a hint.

    Raises CompressError where there is no more room, UsageError where the folder may not be written or is gone.
    """
    try:
        yield
    except OSError as error:
        names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if name]
        ours = any(name.is_relative_to(folder) or folder.is_relative_to(name) for name in names)
        if error.errno in FULL:
            raise CompressError(
                f"the disk is full: {folder if ours or not names else names[0]}",
                hint="free some space; the same command goes on from there",
            ) from error
        if not ours:
            raise
        named = next((name for name in names if name.is_relative_to(folder)), folder)
        raise UsageError(f"cannot write to {named}: {error.strerror}", hint="name a writable folder with -o") from error
