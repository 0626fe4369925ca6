"""Weights made to fit a module: which entries of its state dict must be there, and which it makes itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.core import UsageError
from compressor.frontend._weights import Weights, some
from compressor.modules import named_parameters, state_dict

__all__ = ["Expected", "expected", "fit"]

_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_var")
"""Last parts of the names of buffers that are learned: the statistics of a normalisation."""
_CONSTANTS = {
    "anchor_grid", "anchors", "attn_mask", "attention_mask", "causal_mask", "cos_cached", "freqs_cis", "inv_freq",
    "mask", "masked_bias", "relative_coords_table", "sin_cached", "stride", "total_ops", "total_params",
}  # fmt: skip
"""Last parts of the names of float buffers that libraries compute from the settings of a layer, not from data."""
_SCALARS = {"scale"}
"""As `_CONSTANTS`, where the tensor has one element."""


@dataclass(frozen=True)
class Expected:
    """What a module's state dict holds, in its order."""

    state: Mapping[str, Tensor]
    """Tensors of the right shapes and types; tied ones share memory. Their values are not used."""
    parameters: frozenset[str]
    """The names among them that are parameters; the others are buffers."""
    build: Callable[[], nn.Module]
    """Makes a fresh module."""

    def learned(self, name: str) -> bool:
        """Tell whether an entry comes from training, so that a fresh module does not have it."""
        return name in self.parameters or name.rpartition(".")[2] in _STATISTICS


def expected(module: nn.Module, build: Callable[[], nn.Module]) -> Expected:
    """Return what ``module`` expects of its weights; ``build`` makes a fresh one."""
    return Expected(state_dict(module), frozenset(name for name, _ in named_parameters(module)), build)


def fit(weights: Weights, wanted: Expected, whose: str) -> Weights:
    """Return the weights in the order and the types of a module's own state dict.

    A missing buffer that is not learned is taken from a fresh module. An entry that the module lacks and that looks
    like such a buffer (of another version of a library), or that the code which makes the module leaves out of
    this very file, is left out. The notes say so.
    Raises UsageError with the first keys where the two differ (``whose`` names the module), and for values that are
    not finite: NaN anywhere, infinity in what is learned.
    """
    state, reference = dict(weights.state), wanted.state
    notes = list(weights.notes)
    if aside := [key for key in state if key not in reference and _is_constant(key, state[key])]:
        notes.append(f"left aside, being constants that the network lacks: {some(aside)}")
        state = {key: tensor for key, tensor in state.items() if key not in aside}
    if others := _unused(state, wanted):
        notes.append(f"left aside, as the code that makes the network does: {some(others)}")
        state = {key: tensor for key, tensor in state.items() if key not in others}
    tied = {key: _twin(key, reference, state) for key in reference if key not in state}
    state |= {key: state[twin] for key, twin in tied.items() if twin is not None}
    if absent := [key for key in reference if key not in state and not wanted.learned(key)]:
        fresh = _constants(wanted, absent)
        state |= fresh
        if fresh:
            notes.append(f"not in the file, and as the network makes them: {some(list(fresh))}")
    for key, want in reference.items():  # position_ids of 1 x N or N, a counter of 1 or no axes
        if key in state and key not in wanted.parameters and state[key].numel() == want.numel():
            state[key] = state[key].reshape(want.shape)
    _check_fit(state, wanted, whose)
    ordered = {k: state[k] if want.is_floating_point() else state[k].to(want.dtype) for k, want in reference.items()}
    _check_finite(ordered, wanted)
    return Weights(ordered, tuple(notes), weights.place)


def _unused(state: Mapping[str, Tensor], wanted: Expected) -> list[str]:
    """Return the entries that the module lacks, where the code that makes it gives it the very weights of the file.

    Then its maker loads the file himself, and leaves these out, such as the parameters of a loss.
    """
    extra = [key for key in state if key not in wanted.state]
    if not extra or not all(key in state and state[key].shape == t.shape for key, t in wanted.state.items()):
        return []
    own = state_dict(wanted.build())
    learned = [key for key in wanted.parameters if not own[key].is_meta]
    return extra if learned and all(torch.equal(own[key], state[key].to(own[key].dtype)) for key in learned) else []


def _is_constant(key: str, tensor: Tensor) -> bool:
    """Tell whether an entry that the module lacks looks like a constant buffer rather than a weight."""
    last = key.rpartition(".")[2]
    if last in _STATISTICS:
        return False
    return not tensor.is_floating_point() or last in _CONSTANTS or (last in _SCALARS and tensor.numel() == 1)


def _twin(key: str, reference: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """Return the name in the file of the tensor that is tied to ``key``: safetensors files hold tied weights once."""
    want = reference[key]
    if want.is_meta or want.numel() == 0:
        return None
    same = (name for name, t in reference.items() if name in state and t.data_ptr() == want.data_ptr())
    return next((name for name in same if reference[name].shape == want.shape), None)


def _constants(wanted: Expected, names: list[str]) -> dict[str, Tensor]:
    """Return those of the buffers that two fresh modules have in common: they are constants, and not random."""
    one, other = (state_dict(wanted.build()) for _ in range(2))
    return {
        name: one[name].detach().clone()
        for name in names
        if name in one and name in other and torch.equal(one[name], other[name])
    }


def _check_fit(state: Mapping[str, Tensor], wanted: Expected, whose: str) -> None:
    reference = wanted.state
    differences = {
        "missing": [key for key in reference if key not in state],
        "unexpected": [key for key in state if key not in reference],
        "mis-shaped": [
            f"{key} {list(state[key].shape)} for {list(want.shape)}"
            for key, want in reference.items()
            if key in state and state[key].shape != want.shape
        ],
        "mis-typed": [
            f"{key} {state[key].dtype} for {want.dtype}".replace("torch.", "")
            for key, want in reference.items()
            if key in state and want.is_floating_point() and not state[key].is_floating_point()
        ],
    }
    if any(differences.values()):
        told = "; ".join(f"{what}: {some(keys)}" for what, keys in differences.items() if keys)
        raise UsageError(
            f"the weights do not fit {whose}: {told}",
            hint="name the code that these weights were saved from: --arch package.module:callable",
        )


def _check_finite(state: Mapping[str, Tensor], wanted: Expected) -> None:
    """Raise UsageError for NaN anywhere and for infinity in what is learned; a mask may hold -inf."""
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        if tensor.isnan().any() or (wanted.learned(key) and tensor.isinf().any()):
            raise UsageError(
                f"the weights have values that are not finite (NaN or infinity): {key}",
                hint="give a checkpoint from before the training diverged",
            )
