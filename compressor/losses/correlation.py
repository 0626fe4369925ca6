"""The student's correlations between channels against the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Correlation"]


@dataclass(frozen=True)
class Correlation:
    """The squared distance of the C x C inner products of a feature map's channels, over N and C.

    Inter-channel correlation, Liu et al. 2021, arXiv 2202.03680: with F one sample's feature map as
    C x HW, the rows of F Fᵀ are normalised to length 1. Where the channel counts differ, a 1x1 convolution
    from the student's to the teacher's is learned. Sizes may differ.
    """

    stage: int = -1

    kind: ClassVar[str] = "correlation"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def adapter(self, student: Shapes, teacher: Shapes) -> nn.Module | None:
        from compressor.losses._features import regressor

        return regressor(self.stage, student, teacher)

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        from compressor.losses._features import stage, unit

        ours, theirs = (
            stage(outputs, self.stage, whose).flatten(2)
            for outputs, whose in ((student, "student"), (teacher, "teacher"))
        )
        if ours.shape[1] != theirs.shape[1]:
            raise UsageError(
                f"correlation: the student has {ours.shape[1]} channels, the teacher {theirs.shape[1]}",
                hint="apply the loss's adapter to the student's outputs first",
            )
        difference = unit(ours @ ours.mT) - unit(theirs @ theirs.mT)
        return difference.square().sum(2).mean()
