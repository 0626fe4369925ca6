"""The processes of one run: a single one, or those that ``torchrun`` started on one machine.

All of them run the same program. The main process (rank 0) alone writes files, searches and measures; all of them
train together. `main_first` and `run_once` are the two patterns by which the others follow it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from compressor.core import Unavailable, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

__all__ = [
    "accelerator",
    "alone",
    "barrier",
    "broadcast",
    "is_main_process",
    "lost",
    "main_first",
    "mean",
    "rank",
    "restarted",
    "run_once",
    "world",
]

T = TypeVar("T")

_TIMEOUT = timedelta(days=2)
"""How long a process waits for another. The others wait while the main process searches and measures."""

_alone = False


def rank() -> int:
    """Return this process's number, from 0."""
    return 0 if _alone else int(os.environ.get("RANK", "0"))


def world() -> int:
    """Return the number of processes that work together."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def alone() -> Iterator[None]:
    """Make this process work by itself for a while: `rank` is 0, `world` is 1, and nothing waits for the others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def restarted() -> bool:
    """Tell whether ``torchrun`` started the processes again after one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_main_process() -> bool:
    """Tell whether this is the process that writes files."""
    return rank() == 0


@cache
def accelerator(device: str) -> Accelerator:
    """Return Hugging Face accelerate's handle on the device; the first call joins the processes.

    The training loop sets the precision itself, since accelerate has one for the whole process.
    Raises UsageError for processes on several machines, Unavailable where the devices are not there.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    if world() > 1:  # channels-last gradients are copied into DDP's buckets: correct, and no news to the user
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        raise UsageError(
            "torchrun was started for several machines", hint="use the devices of one: --nnodes 1 --nproc-per-node N"
        )
    if restarted():
        _join_anew("gloo" if device == "cpu" else "nccl")
    made = Accelerator(
        cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT)]
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if made.num_processes != started or made.device.type != device:
        raise Unavailable(
            f"{started} process(es) on {device} are asked for, {made.num_processes} on {made.device.type} can run here",
            hint="--device cpu, or one process for each GPU",
        )
    return made


def _join_anew(backend: str) -> None:
    """Join the processes under keys that no process used before the restart.

    torchrun keeps one key-value store over all restarts. A process that reads a dead one's address there would wait
    for it in vain (github.com/pytorch/pytorch/issues/167288).
    """
    from torch import distributed
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, world(), is_master=False, timeout=_TIMEOUT)
    own = PrefixStore(f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    distributed.init_process_group(backend, store=own, rank=rank(), world_size=world(), timeout=_TIMEOUT)


def lost(error: Exception) -> bool:
    """Tell whether ``error`` says that another process of the run ended while this one was waiting for it."""
    return world() > 1 and any(words in str(error) for words in ("closed by peer", "remote process exited"))


def barrier(device: str) -> None:
    """Wait until every process is here."""
    if world() > 1:
        accelerator(device).wait_for_everyone()


def broadcast(make: Callable[[], T], device: str) -> T:
    """Call ``make()`` in the main process, and return its value in all of them."""
    if world() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    accelerator(device)
    (made,) = broadcast_object_list([make() if is_main_process() else None])
    result: T = made
    return result


def main_first(make: Callable[[], T], read: Callable[[], T], device: str) -> T:
    """Call ``make()`` in the main process and then, once it has returned, ``read()`` in the others.

    ``make`` writes files; ``read`` finds the same value in them.
    """
    if is_main_process():
        made = make()
        barrier(device)
        return made
    barrier(device)
    return read()


def run_once(
    make: Callable[[], T],
    read: Callable[[], T | None],
    device: str,
    *,
    repeat: bool = False,
    join: Callable[[], object] | None = None,
) -> tuple[T, bool]:
    """Return, in every process, a value that is made once and kept in files, and whether it was there already.

    1. Every process looks with ``read()``, which returns None where nothing is there. What the main process sees
       decides for all of them. With ``repeat`` nobody looks, and the value is made again.
    2. Where the value is missing, the main process calls ``make()``, which writes it. The others call ``join()``
       meanwhile, which does the same work with them and writes nothing; without ``join`` the main process works
       `alone`.
    3. All wait for each other. Then the others read what the main process wrote.

    Raises UsageError in a process that cannot read it: it sees another folder.
    """
    value = None if repeat else read()
    was_there = broadcast(lambda: value is not None, device)
    if not was_there:
        value = None
        if is_main_process():
            with nullcontext() if join else alone():
                value = make()
        elif join:
            join()
    barrier(device)
    if value is None and (value := read()) is None:
        raise UsageError(
            f"process {rank()} does not see what the main process wrote",
            hint="name a folder with -o that all processes share",
        )
    return value, was_there


def mean(values: Tensor, device: str) -> Tensor:
    """Return the mean of ``values`` over all processes, on the CPU."""
    if world() == 1:
        return values
    handle = accelerator(device)
    reduced: Tensor = handle.reduce(values.to(handle.device), "mean").cpu()
    return reduced
