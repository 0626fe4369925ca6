"""A search space: a family's members, with the heads that they may have."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from compressor.core import InputSpec, Json
from compressor.models._family import Architecture, Family
from compressor.models._head import ImdnHead
from compressor.models._headed import Headed

__all__ = ["Heads", "Space"]

Heads = Literal["plain", "imdn", "any"]
"""``plain``: the family's own, a pooling and a linear layer. ``imdn``: `ImdnHead`. ``any``: both."""

_ONCE_IN = 8
"""Steps of which one changes the kind of head, where there is a choice."""


@dataclass(frozen=True)
class Space:
    """The members of a family with the heads that a search may give them."""

    family: type[Family]
    heads: Heads = "plain"

    def decode(self, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Architecture:
        """The network that an encoding describes, which may have a ``head`` beside the family's own keys.

        Raises UsageError naming the key where it is none, or describes more than the space holds.
        """
        if not isinstance(encoding, Mapping) or "head" not in encoding:
            return self.family.decode(encoding, input, outputs)
        own = {key: value for key, value in encoding.items() if key != "head"}
        return Headed(self.family.decode(own, input, outputs), ImdnHead.decode(encoding["head"]))

    def seeds(self, input: InputSpec, outputs: int, multiple: int, **said: int) -> tuple[Architecture, ...]:
        """Members to start a search from, as the family's: each with the smallest head of each kind.

        ``said`` is what the family's own seeds take besides.
        """
        plain = self.family.seeds(input, outputs, multiple, **said)
        headed = tuple(Headed(each, ImdnHead.smallest(multiple)) for each in plain)
        kinds: dict[Heads, list[tuple[Architecture, ...]]] = {"plain": [plain], "imdn": [headed]}
        together = kinds.get(self.heads, [plain, headed])
        return tuple(each for rung in zip(*together, strict=True) for each in rung)

    def step(self, member: Architecture, random: random.Random, multiple: int) -> Architecture:
        """Another member, one small step away; the same state of ``random`` gives the same."""
        if self.heads == "any" and random.randrange(_ONCE_IN) == 0:
            return member.backbone if isinstance(member, Headed) else Headed(member, ImdnHead.smallest(multiple))
        return member.mutated(random, multiple)
