"""The starter of the process that reads a model file, and the reader of its answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from compressor.core import CompressError, UnsafeInput, UsageError

if TYPE_CHECKING:
    from compressor.frontend._weights import Weights

__all__ = ["read"]

_ROOT = Path(__file__).parents[2]
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from compressor.frontend._child import main; main(*sys.argv[2:])"
)
_SECONDS = 120
"""Seconds that the process may take, beside one for each `_PER_SECOND` bytes of the file: disks may be slow."""
_PER_SECOND = 4 << 20
_HINT = "read it only if you know who made it; weights saved as safetensors are the safest"


def read(file: BinaryIO, path: Path) -> tuple[Weights, ...]:
    """Return the groups of named tensors of a scanned file, the likeliest weights first.

    Raises UsageError or UnsafeInput.
    The process is a new Python, not a fork, so that any thread, notebook or program can start it.
    """
    # In memory: of a process that is killed no temporary file stays, and a full /tmp stops nobody.
    with os.fdopen(os.memfd_create("weights"), "rb") as kept:
        descriptors = [file.fileno(), kept.fileno()]
        # Isolated: no variable of the environment and no file of the working directory changes what it imports.
        command = [sys.executable, "-I", "-c", _START, json.dumps(_import_path()), str(path), *map(str, descriptors)]
        allowed = _SECONDS + os.fstat(file.fileno()).st_size // _PER_SECOND
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        with child:
            try:
                # Both import torch at once: waiting for the child takes no time of its own.
                import safetensors.torch

                from compressor.frontend._weights import Weights

                told, errors = child.communicate(timeout=allowed)
            except subprocess.TimeoutExpired as error:
                raise UnsafeInput(f"{path} takes more than {allowed} seconds to read", hint=_HINT) from error
            finally:
                child.kill()
        if child.returncode < 0:
            raise UnsafeInput(f"{path} {_ended(-child.returncode)}", hint=_HINT)
        if child.returncode > 0:
            last = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise CompressError(f"the process that reads {path} failed: {''.join(last)}", hint="compress doctor")
        answer = json.loads(told)
        if "code" in answer:
            kinds = {kind.code: kind for kind in (UsageError, UnsafeInput)}
            raise kinds.get(answer["code"], CompressError)(answer["what"], hint=answer["hint"])
        state = safetensors.torch.load_file(f"/proc/self/fd/{kept.fileno()}")
        return tuple(
            Weights({key: state[n] for key, n in each["keys"].items()}, tuple(each["notes"]), tuple(each["place"]))
            for each in answer["groups"]
        )


def _import_path() -> list[str]:
    """Return this process's import path without the working directory, which may hold a torch.py."""
    return [*filter(_elsewhere, sys.path), str(_ROOT)]


def _elsewhere(entry: str) -> bool:
    try:
        return Path(entry).is_absolute() and not Path(entry).samefile(".")
    except OSError:
        return False


def _ended(number: int) -> str:
    if number == signal.SIGXCPU:
        return "takes too much computing to read"
    if number == signal.SIGKILL:
        return "takes more memory or computing to read than there is"
    return f"ends the process that reads it ({signal.Signals(number).name})"
