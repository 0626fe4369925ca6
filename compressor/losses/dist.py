"""The correlation of the student's class probabilities with the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Dist"]


@dataclass(frozen=True)
class Dist:
    """T² · (inter · (1 - correlation over a sample's classes) + intra · (1 - correlation over a class's samples)).

    DIST, Huang et al. 2022, arXiv 2205.10536, section 4: Pearson correlations of the softened probabilities,
    averaged over samples and classes. What is matched is their order and relation, not their values, which suits a
    teacher far stronger than its student. ``standardised`` as in `compressor.losses.kl`.
    """

    inter: float = 1.0
    intra: float = 1.0
    temperature: float = 4.0
    standardised: bool = False

    kind: ClassVar[str] = "dist"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"dist.temperature = {self.temperature}", hint="give a number above 0, such as 4.0")
        if min(self.inter, self.intra) < 0 or self.inter + self.intra == 0:
            raise UsageError(
                f"dist: inter = {self.inter}, intra = {self.intra} are not weights",
                hint="give 0 or more for each, and not 0 for both",
            )

    @property
    def whole(self) -> bool:
        return self.standardised

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        from compressor.losses._logits import softened

        ours, theirs = (
            softened(each.logits, self.temperature, self.standardised).softmax(1) for each in (student, teacher)
        )
        apart = self.inter * _uncorrelated(ours, theirs) + self.intra * _uncorrelated(ours.T, theirs.T)
        return self.temperature**2 * apart


def _uncorrelated(ours: Tensor, theirs: Tensor) -> Tensor:
    """One less Pearson's correlation of each row, averaged. Rows of next to no variance have bounded gradients."""
    import torch.nn.functional as F

    one, other = (F.normalize(rows - rows.mean(1, keepdim=True), dim=1, eps=1e-3) for rows in (ours, theirs))
    # As half the squared distance: exactly 0 where both are the same, flat rows too.
    return 0.5 * (one - other).square().sum(1).mean()
