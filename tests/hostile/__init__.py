"""Hostile and broken input, made on the spot: what every door must refuse, by the command line alone.

Each module has its ``CASES``; none of the files lies in the repository.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One input that has to be refused.

    The refusal is to come in under 5 seconds and 1 GB, without a traceback and without running a payload: whatever
    a payload does, it does below ``canary`` (see `canary`), where nothing may turn up.
    """

    name: str
    make: Callable[[Path], list[str]]
    """Writes its files into a folder and returns the arguments of ``compress``."""
    exit: int
    says: str
    """What the message must contain."""


def canary(folder: Path) -> Path:
    """The file that a payload made in ``folder`` would leave behind."""
    return folder / "CANARY"
