"""A search space: a family's architectures with the heads that a search may give them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from compressor.core import InputSpec, Json
from compressor.models.common.family import Architecture, Family
from compressor.models.common.head import ImdnHead
from compressor.models.common.headed import Headed

__all__ = ["Heads", "Space"]

Heads = Literal["plain", "imdn", "any"]
"""``plain``: the family's own head, a pooling and a linear layer. ``imdn``: `ImdnHead`. ``any``: either."""

_ONCE_IN = 8
"""With ``any``, one step in so many changes the kind of head."""


@dataclass(frozen=True)
class Space:
    """The members of a family, each with a head of a kind that ``heads`` allows."""

    family: type[Family]
    heads: Heads = "plain"

    def decode(self, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Architecture:
        """Return the architecture that an encoding describes, which may have a ``head`` beside the family's keys.

        Raises UsageError naming the key that is missing, unknown or out of range.
        """
        if not isinstance(encoding, Mapping) or "head" not in encoding:
            return self.family.decode(encoding, input, outputs)
        own = {key: value for key, value in encoding.items() if key != "head"}
        return Headed(self.family.decode(own, input, outputs), ImdnHead.decode(encoding["head"]))

    def seeds(
        self, input: InputSpec, outputs: int, multiple: int, upscale_factor: int | None = None
    ) -> tuple[Architecture, ...]:
        """Return members to start a search from: the family's seeds, each with the smallest head of each kind.

        ``upscale_factor`` is for families whose networks make images.
        """
        extra = {} if upscale_factor is None else {"upscale_factor": upscale_factor}
        plain = self.family.seeds(input, outputs, multiple, **extra)
        headed = tuple(Headed(each, ImdnHead.smallest(multiple)) for each in plain)
        kinds: dict[Heads, list[tuple[Architecture, ...]]] = {"plain": [plain], "imdn": [headed]}
        ladders = kinds.get(self.heads, [plain, headed])
        return tuple(each for rung in zip(*ladders, strict=True) for each in rung)

    def step(self, member: Architecture, random: random.Random, multiple: int) -> Architecture:
        """Return another member, one small step away. The same state of ``random`` gives the same member."""
        if self.heads == "any" and random.randrange(_ONCE_IN) == 0:
            return member.backbone if isinstance(member, Headed) else Headed(member, ImdnHead.smallest(multiple))
        return member.mutated(random, multiple)
