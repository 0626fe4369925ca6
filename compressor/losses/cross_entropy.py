"""The student against the true labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CrossEntropy"]


@dataclass(frozen=True)
class CrossEntropy:
    """The mean of -log p(label); the teacher's output is not used.

    ``smoothing`` is the share of the label's weight that is spread evenly over all K classes
    (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """

    smoothing: float = 0.0

    kind: ClassVar[str] = "cross-entropy"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"cross-entropy.smoothing = {self.smoothing}", hint="give a share: 0 or more, below 1")

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch.nn.functional as F

        assert labels is not None
        return F.cross_entropy(student.logits, labels, label_smoothing=self.smoothing)
