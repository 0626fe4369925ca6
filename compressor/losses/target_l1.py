"""The student's output against the true image, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TargetL1"]


@dataclass(frozen=True)
class TargetL1:
    """The mean absolute difference from the true image: IMDN's own loss (Hui et al. 2019, arXiv 1909.11856)."""

    kind: ClassVar[str] = "target-l1"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})
    regression: ClassVar[bool] = True

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch.nn.functional as F

        if labels is None or labels.shape != student.logits.shape:
            shape = None if labels is None else tuple(labels.shape)
            raise UsageError(
                f"target-l1: the true image has the shape {shape}, the student's output {tuple(student.logits.shape)}",
                hint="the loss is for super-resolution; for classification take cross-entropy",
            )
        return F.l1_loss(student.logits, labels)
