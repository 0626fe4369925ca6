"""The student's probabilities against the teacher's, the true class and the others weighted apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Decoupled"]


@dataclass(frozen=True)
class Decoupled:
    """T² · (target · KL of the true class against all others + others · KL among the others), averaged over samples.

    Decoupled knowledge distillation, Zhao et al. 2022, arXiv 2203.08679, equation 7. Plain KL weights the second term
    with the share that the teacher leaves the others, which is least where it is sure. Where images are mixed the true
    class is that of the greater share. ``standardised`` as in `compressor.losses.kl`.
    """

    target: float = 1.0
    others: float = 8.0
    temperature: float = 4.0
    standardised: bool = False

    kind: ClassVar[str] = "decoupled"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"decoupled.temperature = {self.temperature}", hint="give a number above 0, such as 4.0")
        if min(self.target, self.others) < 0 or self.target + self.others == 0:
            raise UsageError(
                f"decoupled: target = {self.target}, others = {self.others} are not weights",
                hint="give 0 or more for each, and not 0 for both",
            )

    @property
    def whole(self) -> bool:
        return self.standardised

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch.nn.functional as F

        from compressor.losses._logits import class_numbers, softened

        assert labels is not None
        true = F.one_hot(class_numbers(labels), student.logits.shape[1]).bool()
        ours, theirs = (softened(each.logits, self.temperature, self.standardised) for each in (student, teacher))
        binary = F.kl_div(_binary(ours, true), _binary(theirs, true), reduction="batchmean", log_target=True)
        among = F.kl_div(_others(ours, true), _others(theirs, true), reduction="batchmean", log_target=True)
        return self.temperature**2 * (self.target * binary + self.others * among)


def _binary(scores: Tensor, true: Tensor) -> Tensor:
    """The log-probabilities of the true class and of all others together: N x 2."""
    import torch

    others = scores.masked_fill(true, -torch.inf).logsumexp(1)
    return torch.log_softmax(torch.stack([scores[true], others], 1), 1)


def _others(scores: Tensor, true: Tensor) -> Tensor:
    """The log-probabilities among the classes that are not the true one: N x (K - 1)."""
    import torch

    return torch.log_softmax(scores[~true].reshape(len(scores), -1), 1)
