"""The processes of one run: one, or those that ``torchrun`` started."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from compressor.core import Unavailable, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

__all__ = ["accelerator", "alone", "barrier", "broadcast", "is_main_process", "lost", "mean", "rank", "restarted", "world"]

T = TypeVar("T")

_PATIENCE = timedelta(days=2)
"""The others wait while the first searches and measures."""

_alone = False


def rank() -> int:
    """This process's number, from 0."""
    return 0 if _alone else int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes work together."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def alone() -> Iterator[None]:
    """This process does something by itself, whatever the others wait for."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def restarted() -> bool:
    """Whether ``torchrun`` has started the processes anew, because one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_main_process() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


@cache
def accelerator(device: str) -> Accelerator:
    """Hugging Face accelerate's handle on the devices; joins the processes the first time.

    Precision is left to the loop: accelerate wants one for the whole process.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    if world() > 1:  # channels-last gradients are copied into DDP's buckets: right, and not worth a line a process
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        raise UsageError(
            "torchrun was told of several machines", hint="use the devices of one: --nnodes 1 --nproc-per-node N"
        )
    if restarted():
        _join_anew("gloo" if device == "cpu" else "nccl")
    made = Accelerator(
        cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)]
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if made.num_processes != started or made.device.type != device:
        raise Unavailable(
            f"{started} process(es) on {device} are not to be had here: {made.num_processes} on {made.device.type} are",
            hint="--device cpu, or one process for each GPU",
        )
    return made


def _join_anew(backend: str) -> None:
    """Join the processes where the keys of those that died cannot be met.

    torchrun keeps one key-value store over all its restarts, and a process that reads the address of a
    dead one there waits for nobody (github.com/pytorch/pytorch/issues/167288).
    """
    from torch import distributed
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, world(), is_master=False, timeout=_PATIENCE)
    own = PrefixStore(f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    distributed.init_process_group(backend, store=own, rank=rank(), world_size=world(), timeout=_PATIENCE)


def lost(error: Exception) -> bool:
    """Whether another process of the run ended while this one was waiting for it."""
    return world() > 1 and any(words in str(error) for words in ("closed by peer", "remote process exited"))


def barrier(device: str) -> None:
    """Wait until every process is here."""
    if world() > 1:
        accelerator(device).wait_for_everyone()


def broadcast(make: Callable[[], T], device: str) -> T:
    """What ``make()`` gives in the first process, in all of them."""
    if world() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    accelerator(device)
    (made,) = broadcast_object_list([make() if is_main_process() else None])
    result: T = made
    return result


def mean(values: Tensor, device: str) -> Tensor:
    """The mean over all processes."""
    if world() == 1:
        return values
    handle = accelerator(device)
    reduced: Tensor = handle.reduce(values.to(handle.device), "mean").cpu()
    return reduced
