"""The distances and angles between samples in the student's embedding against the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Relational"]


@dataclass(frozen=True)
class Relational:
    """Huber losses on the distances of all pairs and the angles of all triples of a batch, weighted.

    Relational knowledge distillation, Park et al. 2019, arXiv 1904.05068, section 3.2: distances are divided
    by their mean; angles are the cosines at each sample between two others. Huber's delta is 1. Both terms
    are averaged over the pairs and triples of distinct samples. The embedding is a stage's feature map
    averaged over H and W: N x C. Channels and sizes may differ. The angles take N³ numbers of memory.
    """

    distance: float = 1.0
    angle: float = 2.0
    stage: int = -1

    kind: ClassVar[str] = "relational"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __post_init__(self) -> None:
        if min(self.distance, self.angle) < 0 or self.distance + self.angle == 0:
            raise UsageError(
                f"relational: distance = {self.distance}, angle = {self.angle} are not weights",
                hint="give 0 or more for each, and not 0 for both",
            )

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch

        from compressor.losses._features import stage, unit

        # [j, i] is the difference from sample j to sample i.
        ours, theirs = (
            embedded.unsqueeze(0) - embedded.unsqueeze(1)
            for embedded in (
                stage(student, self.stage, "student").mean((2, 3)),
                stage(teacher, self.stage, "teacher").mean((2, 3)),
            )
        )
        apart = ~torch.eye(len(ours), dtype=torch.bool, device=ours.device)
        loss = self.distance * _huber(_distances(ours, apart), _distances(theirs, apart), apart)
        if self.angle:
            one, other = unit(ours), unit(theirs)
            distinct = apart.unsqueeze(0) & apart.unsqueeze(1) & apart.unsqueeze(2)
            loss = loss + self.angle * _huber(one @ one.mT, other @ other.mT, distinct)
        return loss


def _distances(ways: Tensor, apart: Tensor) -> Tensor:
    """N x N distances divided by their mean; zero, with a gradient of zero, between equal samples."""
    import torch

    squares = ways.square().sum(-1)
    lengths = torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).sqrt(), 0.0)
    mean = lengths.sum() / apart.sum().clamp(min=1)
    return lengths / torch.where(mean > 0, mean, 1.0)


def _huber(ours: Tensor, theirs: Tensor, where: Tensor) -> Tensor:
    """The mean over the elements that ``where`` selects; zero if it selects none."""
    import torch.nn.functional as F

    losses = F.smooth_l1_loss(ours, theirs, reduction="none")
    return (losses * where).sum() / where.sum().clamp(min=1)
