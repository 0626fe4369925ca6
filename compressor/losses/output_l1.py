"""The student's output against the teacher's, number by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Answers"]


@dataclass(frozen=True)
class Answers:
    """The mean absolute difference from what the teacher makes; zero where the two agree."""

    kind: ClassVar[str] = "answers"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    for_images: ClassVar[bool] = True

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch.nn.functional as F

        return F.l1_loss(student.logits, teacher.logits)
