"""Errors and the exit codes that they end the program with."""

from __future__ import annotations

import enum
from typing import ClassVar

__all__ = [
    "BudgetMissed", "CompressError", "Exit", "Incomplete", "Inconclusive", "Unavailable", "UnsafeInput", "UsageError",
    "VerificationFailed",
]  # fmt: skip


class Exit(enum.IntEnum):
    """The exit codes of ``compress``; every one is a promise to the scripts that call it."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    MISSED = 3
    INCONCLUSIVE = 4
    UNAVAILABLE = 5
    VERIFICATION = 6
    UNSAFE = 7
    STOPPED = 130


class CompressError(Exception):
    """What was wrong, and the mend. The command line turns ``code`` into the exit code."""

    code: ClassVar[Exit] = Exit.INTERNAL

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class UsageError(CompressError):
    """A flag, a configuration, a model file or data that cannot be used as given."""

    code = Exit.USAGE


class Incomplete(UsageError):
    """Some of what was given cannot be used; all else is done, and told of on stdout."""


class BudgetMissed(CompressError):
    """The run finished, but a budget or the allowed drop was missed."""

    code = Exit.MISSED


class Inconclusive(CompressError):
    """What was measured does not tell, or the device changed meanwhile: neither a pass nor a failure."""

    code = Exit.INCONCLUSIVE


class Unavailable(CompressError):
    """The target's runtime or device is not here."""

    code = Exit.UNAVAILABLE


class VerificationFailed(CompressError):
    """What was made does not do what it should."""

    code = Exit.VERIFICATION


class UnsafeInput(CompressError):
    """A file that would run code, or lies about its size."""

    code = Exit.UNSAFE
