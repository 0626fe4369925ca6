"""The student's feature map against the teacher's, element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Hint"]


@dataclass(frozen=True)
class Hint:
    """Half the mean squared difference of one stage's feature maps.

    FitNets, Romero et al. 2015, arXiv 1412.6550, equation 3, averaged over N, C, H and W so that its
    weight does not depend on their size. Where the channel counts differ, a 1x1 convolution from the
    student's to the teacher's is learned. Where the sizes differ, the larger map is average-pooled to the
    smaller. The default ``stage`` is the last but one: the middle of three, as in the paper.
    """

    stage: int = -2

    kind: ClassVar[str] = "hint"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def adapter(self, student: Shapes, teacher: Shapes) -> nn.Module | None:
        from compressor.losses._features import regressor

        return regressor(self.stage, student, teacher)

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch.nn.functional as F

        from compressor.losses._features import same_size, stage

        ours, theirs = stage(student, self.stage, "student"), stage(teacher, self.stage, "teacher")
        if ours.shape[1] != theirs.shape[1]:
            raise UsageError(
                f"hint: the student has {ours.shape[1]} channels, the teacher {theirs.shape[1]}",
                hint="apply the loss's adapter to the student's outputs first",
            )
        return 0.5 * F.mse_loss(*same_size(ours, theirs))
