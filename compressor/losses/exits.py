"""The answers of exits at the student's stages against the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Shapes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Exits"]


@dataclass(frozen=True)
class Exits:
    """The mean over exits of -Σ ((q + [true class]) ^ power - [true class]) · log p, for teacher q and exit p.

    OFA-KD, Hao et al. 2023, arXiv 2310.19444, section 3: each stage of the student has a learned exit, which maps its
    features to class scores, so that teachers of any architecture can teach them; the student's own output counts as
    the last. A ``power`` above 1 trusts the teacher where it is sure. The paper takes a sum over exits; the mean keeps
    the weight's meaning for any number of stages.
    """

    power: float = 1.0
    temperature: float = 1.0

    kind: ClassVar[str] = "exits"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels", "student-features"})

    def __post_init__(self) -> None:
        if not (0 < self.temperature < float("inf") and 0 < self.power < float("inf")):
            raise UsageError(
                f"exits: power = {self.power}, temperature = {self.temperature}", hint="give numbers above 0"
            )

    def module(self, student: Shapes, classes: int) -> nn.Module:
        from compressor.losses._stage_exits import StageExits

        return StageExits(student, classes, self.power, self.temperature)
