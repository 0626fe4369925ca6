"""The groups of weights inside whatever a checkpoint holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressor.core import UnsafeInput, UsageError
from compressor.frontend._weights import Weights, is_averaged, some

__all__ = ["USUAL", "candidates", "is_training_state"]

USUAL = ("state_dict", "model", "model_state_dict", "net")
"""Keys under which training scripts keep the weights, the most usual first."""

_OPTIMISER = {
    "acc_delta", "exp_avg", "exp_avg_sq", "exp_inf", "grad_avg", "gradients", "grads", "max_exp_avg_sq",
    "momentum_buffer", "param_groups", "sqr_avg", "square_avg",
}  # fmt: skip
"""Keys of an optimiser's state, whose tensors have the weights' own names and shapes."""

_DEEPEST = 8
_MOST = 16
"""Most groups of one file; those with the most tensors are kept."""
_TYING = 4
"""Most times that a group may claim the bytes it holds: tied weights share theirs."""


def candidates(content: Any, path: Path) -> tuple[Weights, ...]:
    """Return all named tensors in what a file holds, grouped by the dict that they lie in, the likeliest weights first.

    All tensors are dense, floats are float32, and no group is an optimiser's state. Averaged weights come first, then
    the usual keys, then the group with the most tensors.
    Raises UsageError where there is no group of dense tensors, UnsafeInput where a group claims more than it holds.
    """
    found = list(_groups(content, (), set()))
    if not found:
        named = content if isinstance(content, Mapping) else {}
        held = f"a dict of {some([str(key) for key in named])}" if named else f"a {type(content).__name__}"
        raise UsageError(
            f"{path} holds no weights by name, but {held}", hint="save them: torch.save(model.state_dict(), path)"
        )
    found = sorted(found, key=lambda group: -len(_tensors(group[1])))[:_MOST]
    taken, refusal = [], None
    for place, group in found:
        try:
            taken.append(_weights(place, group, path))
        except UsageError as error:  # another group may do
            refusal = refusal or error
    if not taken:
        assert refusal is not None
        raise refusal
    return tuple(sorted(taken, key=lambda weights: _rank(weights.place)))


def is_training_state(name: str) -> bool:
    """Tell whether a key is of an optimiser or of a learning-rate schedule."""
    tokens = re.split(r"[^a-z]+", name.lower())
    return name in _OPTIMISER or any(t in ("opt", "opts") or t.startswith(("optim", "sched")) for t in tokens)


def _groups(
    content: Any, place: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield each dict that holds tensors by name, with the keys that lead to it."""
    if not isinstance(content, Mapping) or id(content) in seen or len(place) > _DEEPEST:
        return
    seen.add(id(content))  # a pickled dict may hold itself
    if _tensors(content):
        yield place, content
    for key, value in content.items():
        of_optimiser = key == "state" and "param_groups" in content
        if isinstance(key, str) and not is_training_state(key) and not of_optimiser:
            yield from _groups(value, (*place, key), seen)


def _tensors(group: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: t for key, t in group.items() if isinstance(key, str) and isinstance(t, Tensor)}


def _rank(place: tuple[str, ...]) -> tuple[bool, int, int]:
    usual = USUAL.index(place[0]) if place and place[0] in USUAL else len(USUAL)
    return (not any(map(is_averaged, place)), usual, len(place))


def _weights(place: tuple[str, ...], group: Mapping[Any, Any], path: Path) -> Weights:
    """Check one group and return it. Raises UsageError for a tensor that is not dense, UnsafeInput as `candidates`."""
    state = {key: tensor.detach() for key, tensor in _tensors(group).items()}
    _check(state, path)
    notes = [f"nested under {'.'.join(place)!r}"] if place else []
    if aside := [str(key) for key, value in group.items() if key not in state and not isinstance(value, Mapping)]:
        notes.append(f"left aside, being no tensors: {some(aside)}")
    if narrow := sorted({str(t.dtype) for t in state.values() if t.is_floating_point()} - {"torch.float32"}):
        notes.append(f"cast to float32 from {', '.join(narrow).replace('torch.', '')}")
    floats = {key: t.float() if t.is_floating_point() else t for key, t in state.items()}
    return Weights(floats, tuple(notes), place)


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
