"""Weights by name, and their files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from compressor.atomic import write

__all__ = ["Weights", "is_averaged", "packed", "save_weights", "some"]

_AVERAGED = {"ema", "emamodel", "modelema", "shadow", "averaged"}


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, and what was done to find them."""

    state: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    place: tuple[str, ...] = ()
    """The keys under which they lay in the file, the outermost first."""


def is_averaged(name: str) -> bool:
    """Tell whether a key is of weights averaged over the training: ``ema``, ``params_ema``, ``model_ema``."""
    return not _AVERAGED.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def some(names: list[str]) -> str:
    """Return the first three names, printable, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join((name if name.isprintable() else repr(name))[:100] for name in names[:3]) + more


def packed(state: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a safetensors file; the same weights give the same bytes."""
    # Clones, because safetensors refuses tensors that share memory.
    plain = {key: state[key].detach().cpu().contiguous().clone() for key in sorted(state)}
    content: bytes = safetensors.torch.save(plain)
    return content


def save_weights(state: Mapping[str, Tensor], path: Path) -> str:
    """Write weights as safetensors, whole or not at all, and return the file's SHA-256."""
    content = packed(state)
    if not (path.is_file() and path.read_bytes() == content):  # a run that goes on needs no room for what is there
        write(path, content)
    return hashlib.sha256(content).hexdigest()
