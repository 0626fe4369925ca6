"""The student's image against the true one, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Pixels"]


@dataclass(frozen=True)
class Pixels:
    """The mean absolute difference from the image that was to be made: IMDN's own loss (Hui et al. 2019)."""

    kind: ClassVar[str] = "pixels"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})
    for_images: ClassVar[bool] = True

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch.nn.functional as F

        if labels is None or labels.shape != student.logits.shape:
            shape = None if labels is None else tuple(labels.shape)
            raise UsageError(
                f"pixels: the image to be made is {shape}, the student's {tuple(student.logits.shape)}",
                hint="it is a loss for super-resolution: of classes take cross-entropy",
            )
        return F.l1_loss(student.logits, labels)
