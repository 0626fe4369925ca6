"""Weights by name: found inside whatever a checkpoint holds, checked, and written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from compressor.atomic import write
from compressor.core import UnsafeInput, UsageError

NESTS = ("state_dict", "model", "model_state_dict", "net")
"""Where training scripts keep the weights among other things; the first one found is taken."""

_PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DataParallel, Lightning and torch.compile put before every key."""

_DEEPEST = 8
_TYING = 4
"""Tied weights make a checkpoint claim more bytes than it holds; never this many times as many."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, and what was done to find them."""

    state: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    def stripped(self) -> Weights | None:
        """The same without the prefix that most keys have; None where they have none."""
        for prefix in _PREFIXES:
            kept = {key.removeprefix(prefix): t for key, t in self.state.items() if key.startswith(prefix)}
            if 2 * len(kept) > len(self.state):
                notes = (*self.notes, f"prefix {prefix!r} stripped")
                if aside := [key for key in self.state if not key.startswith(prefix)]:
                    notes += (f"left aside, being outside {prefix!r}: {some(aside)}",)
                return Weights(kept, notes)
        return None


def unwrap(content: Any, path: Path) -> Weights:
    """The named tensors inside what a file holds, all of them dense and finite, floats as float32.

    Raises UsageError where there are none or they are no weights, UnsafeInput where they lie about their size.
    """
    notes: list[str] = []
    for _ in range(_DEEPEST):  # a pickled dict may hold itself
        nest = next((n for n in NESTS if isinstance(content, Mapping) and isinstance(content.get(n), Mapping)), None)
        if nest is None:
            break
        content = content[nest]
        notes.append(f"nested under {nest!r}")
    named = content if isinstance(content, Mapping) else {}
    state = {key: t.detach() for key, t in named.items() if isinstance(key, str) and isinstance(t, Tensor)}
    if not state:
        held = f"a dict of {some([str(key) for key in named])}" if named else f"a {type(content).__name__}"
        raise UsageError(
            f"{path} holds no weights by name, but {held}", hint="save them: torch.save(model.state_dict(), path)"
        )
    if aside := [str(key) for key in named if key not in state]:
        notes.append(f"left aside, being no tensors: {some(aside)}")
    _check(state, path)
    if narrow := sorted({str(t.dtype) for t in state.values() if t.is_floating_point()} - {"torch.float32"}):
        notes.append(f"cast to float32 from {', '.join(narrow).replace('torch.', '')}")
    return Weights({k: t.float() if t.is_floating_point() else t for k, t in state.items()}, tuple(notes))


def _check(state: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in state.items():
        dense = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta or tensor.is_complex())
        if not dense:
            raise UsageError(
                f"{path}: {key} is not a dense tensor of real numbers",
                hint="give the float checkpoint, before any quantisation or sparsification",
            )
    storages = [t.untyped_storage() for t in state.values()]
    held = sum({s.data_ptr(): s.nbytes() for s in storages}.values())
    claimed = sum(t.nbytes for t in state.values())
    if claimed > _TYING * held:
        raise UnsafeInput(
            f"{path} claims {claimed:,} bytes of weights, and holds {held:,}",
            hint="save its tensors in full: {k: v.clone() for k, v in model.state_dict().items()}",
        )
    for key, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise UsageError(
                f"{path}: {key} has values that are not finite (NaN or infinity)",
                hint="give a checkpoint from before the training diverged",
            )


def fit(weights: Weights, reference: Mapping[str, Tensor], whose: str) -> Weights:
    """The weights in the order and the types of ``reference``, a module's own state dict.

    Raises UsageError with the first keys where the two differ; ``whose`` names the module.
    """
    state, notes = dict(weights.state), weights.notes
    counters = [key for key in reference if key.endswith("num_batches_tracked") and key not in state]
    if counters:  # torch before 0.4.1 had none, and inference needs none
        state |= {key: torch.tensor(0) for key in counters}
        notes = (*notes, "num_batches_tracked set to 0")
    differences = {
        "missing": [key for key in reference if key not in state],
        "unexpected": [key for key in state if key not in reference],
        "mis-shaped": [
            f"{key} {list(state[key].shape)} for {list(wanted.shape)}"
            for key, wanted in reference.items()
            if key in state and state[key].shape != wanted.shape
        ],
        "mis-typed": [
            f"{key} {state[key].dtype} for {wanted.dtype}".replace("torch.", "")
            for key, wanted in reference.items()
            if key in state and wanted.is_floating_point() and not state[key].is_floating_point()
        ],
    }
    if any(differences.values()):
        told = "; ".join(f"{what}: {some(keys)}" for what, keys in differences.items() if keys)
        raise UsageError(
            f"the weights do not fit {whose}: {told}",
            hint="name the code that these weights were saved from: --arch package.module:callable",
        )
    ordered = {k: state[k] if want.is_floating_point() else state[k].to(want.dtype) for k, want in reference.items()}
    return Weights(ordered, notes)


def some(names: list[str]) -> str:
    """The first few of a list, fit for a terminal, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join((name if name.isprintable() else repr(name))[:100] for name in names[:3]) + more


def packed(state: Mapping[str, Tensor]) -> bytes:
    """Weights as a safetensors file has them; the same weights give the same bytes."""
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
