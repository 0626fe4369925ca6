"""The processes of one run: one, or those that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["accelerator", "agreed", "first", "rank", "together", "world"]

T = TypeVar("T")

_PATIENCE = timedelta(days=2)
"""The others wait while the first searches and measures."""


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


@cache
def accelerator(device: str) -> Accelerator:
    """Hugging Face accelerate's handle on the devices; joins the processes the first time.

    Precision is left to the loop: accelerate wants one for the whole process.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    return Accelerator(
        cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)]
    )


def together(device: str) -> None:
    """Wait until every process is here."""
    if world() > 1:
        accelerator(device).wait_for_everyone()


def agreed(make: Callable[[], T], device: str) -> T:
    """What ``make()`` gives in the first process, in all of them."""
    if world() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    accelerator(device)
    (made,) = broadcast_object_list([make() if first() else None])
    result: T = made
    return result
