"""States of a network: outputs that are fed back into inputs, step after step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.core import Signature, TensorSpec, UsageError

if TYPE_CHECKING:
    from compressor.core import Session
    from compressor.core.signature import Feeds, Outputs

__all__ = ["feed_back", "states_of"]


def states_of(signature: Signature, given: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return the output that each input comes from that the samples do not have.

    It has the same type and shape; of several the one whose name is most alike, each for one input.
    Raises UsageError where an input has no such output.
    """
    missing = [spec for spec in signature.inputs if spec.name not in given]
    if len(missing) == len(signature.inputs) or not missing:
        return {}  # arrays under other names, or all of them given
    free = list(signature.outputs)
    pairs: dict[str, str] = {}
    for spec in sorted(missing, key=lambda each: -_likest(each, free)):
        fitting = [other for other in free if _same_form(spec, other)]
        if not fitting:
            raise UsageError(
                f"the samples have no {spec.name}, and no output has its type and shape, from which it could be fed "
                f"back: {spec}",
                hint=f"give {spec.name} in each sample",
            )
        best = max(fitting, key=lambda other: _alike(spec.name, other.name))
        pairs[spec.name] = best.name
        free.remove(best)
    return {spec.name: pairs[spec.name] for spec in missing}


def _same_form(one: TensorSpec, other: TensorSpec) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape


def _likest(spec: TensorSpec, outputs: Sequence[TensorSpec]) -> float:
    return max((_alike(spec.name, other.name) for other in outputs if _same_form(spec, other)), default=0.0)


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()


def feed_back(session: Session, steps: Sequence[Feeds], states: Mapping[str, str]) -> Iterator[tuple[Feeds, Outputs]]:
    """Run a sequence step after step, states beginning at zero; yield what was fed and what came of it."""
    specs = {spec.name: spec for spec in session.signature.inputs}
    shapes = {name: [n if isinstance(n, int) else 1 for n in specs[name].shape] for name in states}
    held: dict[str, NDArray[Any]] = {name: np.zeros(shapes[name], specs[name].dtype) for name in states}
    for step in steps:
        feeds = {name: step[name] if name in step else held[name] for name in specs}
        outputs = session(feeds)
        yield feeds, outputs
        held = {name: outputs[source] for name, source in states.items()}
