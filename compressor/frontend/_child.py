"""The process that reads a model file. A hostile file can end this process, and cannot fill the memory."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from compressor.core import CompressError, UnsafeInput, UsageError
from compressor.frontend._candidates import candidates
from compressor.frontend._memory import memory_limit
from compressor.frontend._scan import COPY_AGAIN
from compressor.frontend._weights import Weights, packed

__all__ = ["main", "read_weights"]

_MEMORY = 256 << 20
"""Bytes of memory that reading may take, beside `_COPIES` for each byte of the file."""
_COPIES = 24
_SECONDS = 3
"""Seconds of computing that reading may take, beside one for each `_PER_SECOND` bytes of the file."""
_PER_SECOND = 32 << 20


def main(path: str, descriptor: str, kept: str) -> None:
    """Read the weights of an open file, write them to another as safetensors, and their names and notes to stdout."""
    torch.set_num_threads(1)
    answer: dict[str, Any]
    with os.fdopen(int(descriptor), "rb") as file, os.fdopen(int(kept), "wb") as weights_file:
        size = os.fstat(file.fileno()).st_size
        _limit(size)
        allowed = _MEMORY + _COPIES * size
        try:
            with memory_limit(allowed), contextlib.redirect_stdout(sys.stderr):
                found = read_weights(file, Path(path))
                state, answer = _numbered(found)
                weights_file.write(packed(state))
        except CompressError as error:
            answer = {"code": error.code, "what": error.what, "hint": error.hint}
        except MemoryError:
            what = f"{path} takes more than {allowed:,} bytes of memory to read"
            answer = {"code": UnsafeInput.code, "what": what, "hint": COPY_AGAIN}
    print(json.dumps(answer))


def read_weights(file: BinaryIO, path: Path) -> tuple[Weights, ...]:
    """Return the groups of named tensors of a scanned file. Raises UsageError, UnsafeInput or MemoryError."""
    file.seek(0)
    try:
        if file.read(9)[8:] == b"{":
            file.seek(0)
            content: Any = safetensors.torch.load(file.read())
        else:
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises EOFError, KeyError, IndexError, RuntimeError ... for broken files
        if "allocate memory" in str(error):
            raise MemoryError from error
        raise UsageError(f"{path} is truncated or corrupt", hint=COPY_AGAIN) from error
    return candidates(content, path)


def _numbered(found: tuple[Weights, ...]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return each tensor once, under a number, and the groups with these numbers in place of the tensors."""
    numbers: dict[tuple[Any, ...], str] = {}
    state: dict[str, Tensor] = {}
    groups = []
    for weights in found:
        keys = {}
        for key, t in weights.state.items():
            view = (t.data_ptr(), t.dtype, t.shape, t.stride()) if t.numel() else (id(t),)
            keys[key] = numbers.setdefault(view, str(len(numbers)))
            state[keys[key]] = t
        groups.append({"keys": keys, "notes": weights.notes, "place": weights.place})
    return state, {"groups": groups}


def _limit(size: int) -> None:
    """Limit the computing, file sizes and open files of this process."""
    seconds = math.ceil(time.process_time()) + _SECONDS + size // _PER_SECOND
    room = _MEMORY + _COPIES * size
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, room, room),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        # Lower limits that are set already stay.
        ceilings = [limit for limit in resource.getrlimit(kind) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(kind, (min([soft, *ceilings]), min([hard, *ceilings])))
