"""The parts of a search: families, each of which evolves by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from compressor import catalog
from compressor.core import InputSpec
from compressor.models.common.family import Architecture
from compressor.models.common.headed import family_of
from compressor.models.common.space import Heads, Space

__all__ = ["Branch", "branches"]


@dataclass(frozen=True)
class Branch:
    """Candidates that evolve among themselves: members of a family, or those of them that are warm-started."""

    family: str
    """The file of ``models/``."""
    space: Space
    seeds: tuple[Architecture, ...]
    """The members that evolution starts from."""
    warm: bool = False
    """Whether only members count whose weights can be cut from the teacher's."""

    @classmethod
    def of(cls, family: str, heads: Heads, input: InputSpec, outputs: int, multiple: int, upscale: int | None) -> Self:
        """Start from a family's seeds for one input. ``upscale`` is for families whose networks make images."""
        space = Space(catalog.find("models", family), heads)
        return cls(family, space, space.seeds(input, outputs, multiple, upscale))

    def holds(self, architecture: Architecture) -> bool:
        """Tell whether an architecture is of this family, with whatever head."""
        return family_of(architecture) == self.family


def branches(families: Mapping[str, Branch], is_warm_started: Callable[[Architecture], bool]) -> tuple[Branch, ...]:
    """Return the branches of a search that ends in trials: the warm-started ones last.

    A family with warm starts evolves among these; where it is the only one, without them too: an untrained network's
    score does not show how good a start the teacher's weights are.
    """
    warm = {name for name, each in families.items() if any(map(is_warm_started, each.seeds))}
    cold = [each for name, each in families.items() if name not in warm or len(families) == 1]
    return (*cold, *(Branch(n, families[n].space, families[n].seeds, warm=True) for n in families if n in warm))
