"""Calling a network with arrays by name, and naming the tensors that it returns."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.core import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["call_network", "forward_parameters", "named_tensors"]

_DEEPEST = 16
"""Containers inside containers that are looked into."""


def forward_parameters(module: nn.Module) -> list[str]:
    """Return the names of the parameters that a module's forward takes; none where that cannot be told."""
    try:
        return list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return []


def call_network(module: nn.Module, names: Sequence[str], tensors: Sequence[Tensor]) -> Any:
    """Call a module with one tensor for each name.

    Where the names are parameters of its forward and not the first ones in their order, they are given by name.
    """
    parameters = forward_parameters(module)
    if list(names) == parameters[: len(names)] or not set(names) <= set(parameters):
        return module(*tensors)
    return module(**dict(zip(names, tensors, strict=True)))


def named_tensors(made: Any) -> dict[str, Tensor]:
    """Return the tensors in what a forward returned, in order, by where they stand in it.

    Looked into are tuples, lists, mappings, dataclasses and objects that have ``to_tuple`` or attributes. A tensor
    alone is ``output``; of unnamed ones the first is ``output_0``; others have their keys and fields as names, joined
    by ``_``. What is no tensor (None, numbers, texts) is left out.
    Raises UsageError where there is no tensor at all.
    """
    from torch import Tensor

    if isinstance(made, Tensor):
        return {"output": made}
    found: dict[str, Tensor] = {}
    for path, leaf in _leaves(made, (), _DEEPEST):
        if isinstance(leaf, Tensor):
            name = "_".join(path if any(not part.isdigit() for part in path) else ("output", *path))
            found[_unused(name, found)] = leaf
    if not found:
        raise UsageError(
            f"the model's forward returns {type(made).__name__}, with no tensor in it",
            hint="let it return a tensor, or a tuple, list, dict or dataclass of tensors",
        )
    return {"output": next(iter(found.values()))} if list(found) == ["output_0"] else found


def _leaves(made: Any, path: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], Any]]:
    parts = _parts(made) if depth else None
    if parts is None:
        yield path, made
        return
    for name, part in parts:
        yield from _leaves(part, (*path, name), depth - 1)


def _parts(made: Any) -> list[tuple[str, Any]] | None:
    """Return what a container holds, by name; None of what is no container."""
    from torch import Tensor, nn

    if isinstance(made, Tensor | nn.Module | str | bytes | int | float | complex | type(None)):
        return None
    if isinstance(made, Mapping):
        return [(str(key), value) for key, value in made.items()]
    if isinstance(made, tuple | list):
        names = getattr(made, "_fields", None) or map(str, range(len(made)))
        return list(zip(names, made, strict=True))
    if dataclasses.is_dataclass(made):
        return [(field.name, getattr(made, field.name)) for field in dataclasses.fields(made)]
    held = getattr(made, "__dict__", None)
    return list(held.items()) if isinstance(held, dict) and held else None


def _unused(name: str, taken: Mapping[str, Tensor]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
