"""How samples lie to each other in the student against how they do in the teacher."""

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

    Relational knowledge distillation, Park et al. 2019, arXiv 1904.05068, section 3.2: distances over
    their mean, and cosines of the angle at each sample between two others; Huber's delta is 1; averaged
    over the pairs and triples of distinct samples. The embedding is a stage's feature map averaged
    over H and W: N x C. Channels and sizes may differ. Angles take memory for N³ numbers.
    """

    distance: float = 1.0
    angle: float = 2.0
    stage: int = -1

    kind: ClassVar[str] = "relational"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __post_init__(self) -> None:
        if min(self.distance, self.angle) < 0 or self.distance + self.angle == 0:
            raise UsageError(
                f"relational: distance = {self.distance}, angle = {self.angle} are no weights",
                hint="give 0 or more each, and not 0 twice",
            )

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch

        from compressor.losses._features import stage, unit

        # [j, i] is the way from sample j to sample i.
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
    """N x N distances over their mean; zero, with a gradient of zero, between samples that are the same."""
    import torch

    squares = ways.square().sum(-1)
    lengths = torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).sqrt(), 0.0)
    mean = lengths.sum() / apart.sum().clamp(min=1)
    return lengths / torch.where(mean > 0, mean, 1.0)


def _huber(ours: Tensor, theirs: Tensor, where: Tensor) -> Tensor:
    """The mean over ``where``; zero where that is nowhere."""
    import torch.nn.functional as F

    losses = F.smooth_l1_loss(ours, theirs, reduction="none")
    return (losses * where).sum() / where.sum().clamp(min=1)
