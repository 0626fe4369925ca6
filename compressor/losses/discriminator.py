"""A learned judge that cannot tell the student's answers from the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Shapes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Discriminator"]


@dataclass(frozen=True)
class Discriminator:
    """The cross-entropy of a small network that tells student from teacher by their class probabilities.

    MEAL V2, Shen and Savvides 2020, arXiv 2009.08453, section 3: the network learns to tell them apart and the student
    to prevent it, so gradients to the student are reversed (Ganin and Lempitsky 2015, arXiv 1409.7495). It has two
    hidden layers of ``widths``. log 2 is the value where it can only guess.
    """

    widths: tuple[int, ...] = (200, 40)

    kind: ClassVar[str] = "discriminator"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    whole: ClassVar[bool] = True
    """It would tell the teacher by the scores that are not stored."""

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise UsageError(f"discriminator.widths = {list(self.widths)}", hint="give one width or more, such as [40]")

    def module(self, student: Shapes, classes: int) -> nn.Module:
        from compressor.losses._judge import Judge

        return Judge(classes, self.widths)
