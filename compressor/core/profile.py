"""A profile: how a model is compressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compressor.core.json import Json

__all__ = ["PassSpec", "Profile"]


@dataclass(frozen=True, slots=True)
class PassSpec:
    """One entry of a profile: which pass, with which settings."""

    kind: str
    settings: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """How a model is compressed: the ordered passes. One TOML file of ``profiles/`` each."""

    name: str
    title: str
    passes: tuple[PassSpec, ...]
    options: Mapping[str, Json] = field(default_factory=dict)
    """Options of ``compress run`` that this profile brings along; flags win over them."""
    resolved: bool = False
    """Whether this is a plan as it ran (``resolved.toml``): then no compress.toml has a say in it again."""
