"""Prefixes that training code puts before the names of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from compressor.frontend._candidates import is_training_state
from compressor.frontend._weights import Weights, is_averaged, some

__all__ = ["best_spelling", "spellings"]

_COMPILED = "_orig_mod."
"""What torch.compile puts before the names of what it wraps, be it the network or a part of it."""


def best_spelling(weights: Weights, reference: Mapping[str, Tensor]) -> tuple[Weights, int]:
    """Take the prefix off, or put it on, with which most weights fit ``reference``; return them, and how many fit.

    A weight fits where ``reference`` has its name with as many elements.
    """
    weights = _uncompiled(weights)
    counts: Counter[str] = Counter()
    for key, tensor in weights.state.items():
        for prefix in _prefixes(key):
            want = reference.get(key[len(prefix) :])
            counts[prefix] += want is not None and want.numel() == tensor.numel()
    prefix = max(counts, key=lambda each: (counts[each], is_averaged(each), -len(each)), default="")
    added = _common(reference)
    if added:
        fitting = sum(
            (want := reference.get(added + key)) is not None and want.numel() == tensor.numel()
            for key, tensor in weights.state.items()
        )
        if fitting > counts[prefix]:
            state = {added + key: tensor for key, tensor in weights.state.items()}
            return replace(weights, state=state, notes=(*weights.notes, f"prefix {added!r} added")), fitting
    return (_stripped(weights, prefix) if prefix else weights), counts[prefix]


def spellings(weights: Weights) -> Iterator[Weights]:
    """Yield the weights as they are, then with one prefix after another taken off that most names begin with.

    A prefix of averaged weights is preferred.
    """
    weights = _uncompiled(weights)
    while True:
        yield weights
        first = [(key.partition(".")[0], "." in key) for key in weights.state]
        first = [(name, within) for name, within in first if not (within and is_training_state(name))]
        shares = Counter(name for name, within in first if within)
        averaged = [name for name in shares if is_averaged(name) and 3 * shares[name] > len(first)]
        most = averaged or [name for name in shares if 2 * shares[name] > len(first)]
        if not most:
            return
        weights = _stripped(weights, f"{most[0]}.")


def _prefixes(key: str) -> Iterator[str]:
    """Yield each beginning of a name that ends with a dot, the empty one first, up to an optimiser's key."""
    parts = key.split(".")
    prefix = ""
    for part in parts:
        yield prefix
        if is_training_state(part):
            return
        prefix += f"{part}."


def _common(reference: Mapping[str, Tensor]) -> str:
    """Return the first part that all names share, as in a module that wraps another; empty where there is none."""
    first = {key.partition(".")[0] for key in reference if "." in key}
    return f"{first.pop()}." if len(first) == 1 and all("." in key for key in reference) else ""


def _uncompiled(weights: Weights) -> Weights:
    if not any(_COMPILED in key for key in weights.state):
        return weights
    state = {key.replace(_COMPILED, ""): tensor for key, tensor in weights.state.items()}
    return replace(weights, state=state, notes=(*weights.notes, f"prefix {_COMPILED!r} stripped"))


def _stripped(weights: Weights, prefix: str) -> Weights:
    """Return the weights whose names begin with ``prefix``, without it."""
    kept = {key.removeprefix(prefix): t for key, t in weights.state.items() if key.startswith(prefix)}
    notes = (*weights.notes, f"prefix {prefix!r} stripped")
    if aside := [key for key in weights.state if not key.startswith(prefix)]:
        notes += (f"left aside, being outside {prefix!r}: {some(aside)}",)
    return replace(weights, state=kept, notes=notes)
