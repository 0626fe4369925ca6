"""The student's output against the teacher's, element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OutputL1"]


@dataclass(frozen=True)
class OutputL1:
    """The mean absolute difference from the teacher's output; zero where the two agree."""

    kind: ClassVar[str] = "output-l1"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    regression: ClassVar[bool] = True

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch.nn.functional as F

        return F.l1_loss(student.logits, teacher.logits)
