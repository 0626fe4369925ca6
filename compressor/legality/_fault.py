"""What is wrong with one node of a graph."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Fault"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A node that a runtime refuses, or silently takes for another."""

    rule: str
    node: str
    """Operator and name; ``graph`` where it is the whole."""
    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what} ({self.hint})"
