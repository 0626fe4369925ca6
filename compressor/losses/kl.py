"""The student's softened class probabilities against the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KullbackLeibler"]


@dataclass(frozen=True)
class KullbackLeibler:
    """T² · KL(softmax(teacher / T) || softmax(student / T)), summed over classes, averaged over samples.

    Hinton et al. 2015, arXiv 1503.02531, section 2; T² keeps the gradients' size when the
    temperature T changes. The loss is zero where the two agree. ``standardised`` scores have mean 0 and deviation 1
    in each sample before they are softened (logit standardisation, Sun et al. 2024, arXiv 2403.01427, algorithm 1).
    """

    temperature: float = 4.0
    standardised: bool = False

    kind: ClassVar[str] = "kl"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"kl.temperature = {self.temperature}", hint="give a number above 0, such as 4.0")

    @property
    def whole(self) -> bool:
        return self.standardised

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch.nn.functional as F

        from compressor.losses._logits import softened

        log_p = F.log_softmax(softened(student.logits, self.temperature, self.standardised), 1)
        log_q = F.log_softmax(softened(teacher.logits, self.temperature, self.standardised), 1)
        return self.temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
