"""The objective of a training: a weighted sum of losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor import catalog
from compressor.core import Json, UsageError
from compressor.losses._loss import Adapting, Learned, Loss, Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Objective", "objective"]


@dataclass(frozen=True)
class Objective:
    """Losses with their weights: Hinton's is (CrossEntropy(), 0.1), (KullbackLeibler(4.0), 0.9).

    Raises UsageError where there is no loss, or a weight is not a finite number above 0.
    """

    terms: tuple[tuple[Loss | Learned, float], ...]

    def __post_init__(self) -> None:
        if not self.terms or not all(math.isfinite(weight) and weight > 0 for _, weight in self.terms):
            given = ", ".join(f"{loss.kind} {weight:g}" for loss, weight in self.terms) or "none"
            raise UsageError(f"not a sum of losses: {given}", hint="give one or more, each with a weight above 0")

    @property
    def needs(self) -> frozenset[str]:
        """All the inputs that the losses read, out of `NEEDS`."""
        return frozenset[str]().union(*(loss.needs for loss, _ in self.terms))

    def adapters(self, student: Shapes, teacher: Shapes, classes: int) -> nn.ModuleList:
        """The losses' learned modules, one for each term (identity where a loss has none).

        ``classes`` is the size of the outputs' second axis. The modules' parameters are trained beside the student's.
        Raises UsageError where the networks' stages do not match.
        """
        from torch import nn

        def made(loss: Loss | Learned) -> nn.Module | None:
            if isinstance(loss, Learned):
                return loss.module(student, classes)
            return loss.adapter(student, teacher) if isinstance(loss, Adapting) else None

        return nn.ModuleList(made(loss) or nn.Identity() for loss, _ in self.terms)

    def __call__(
        self, adapters: nn.ModuleList, student: Outputs, teacher: Outputs, labels: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The weighted sum, and each loss before its weight, detached."""
        import torch

        losses = [
            adapter(student, teacher, labels) if isinstance(loss, Learned) else loss(adapter(student), teacher, labels)
            for (loss, _), adapter in zip(self.terms, adapters, strict=True)
        ]
        total = torch.stack([weight * loss for (_, weight), loss in zip(self.terms, losses, strict=True)]).sum()
        return total, tuple(loss.detach() for loss in losses)


def objective(terms: Sequence[Mapping[str, Json]]) -> Objective:
    """Build an objective from tables such as ``{loss = "kl", weight = 0.9, temperature = 4.0}``.

    Raises UsageError for unknown losses and settings.
    """
    made: list[tuple[Loss | Learned, float]] = []
    for term in terms:
        if not isinstance(term, Mapping) or not isinstance(term.get("loss"), str):
            raise UsageError(f"not a loss: {term!r}", hint='write {loss = "kl", weight = 0.9}')
        name = str(term["loss"])
        weight = catalog.coerce(float, term.get("weight", 1.0), f"loss {name!r}: weight")
        settings = {key: value for key, value in term.items() if key not in ("loss", "weight")}
        made.append((catalog.make(catalog.find("losses", name), settings, f"loss {name!r}"), weight))
    return Objective(tuple(made))
