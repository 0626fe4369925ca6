"""The student's spatial attention maps against the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AttentionTransfer"]


@dataclass(frozen=True)
class AttentionTransfer:
    """The squared distance of the attention maps, averaged over samples and summed over ``stages``.

    Zagoruyko and Komodakis 2017, arXiv 1612.03928: a map is the sum over channels of the squared
    activations (F²_sum of section 3.1), flattened and normalised to length 1 (equation 2). The distance is
    squared, because the norm itself has no gradient at zero. Channels may differ. Where sizes differ the
    larger feature map is average-pooled to the smaller. ``stages = None`` takes all stages.
    """

    stages: tuple[int, ...] | None = None

    kind: ClassVar[str] = "attention-transfer"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __post_init__(self) -> None:
        if self.stages == ():
            raise UsageError("attention-transfer.stages is empty", hint="name stages, or leave it out to take all")

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        import torch

        from compressor.losses._features import same_size, stage, unit

        ours, theirs = len(student.features), len(teacher.features)
        if self.stages is None and ours != theirs:
            raise UsageError(
                f"attention-transfer: the student has {ours} stages, the teacher {theirs}",
                hint="name the stages that match, such as stages = [-2, -1]",
            )
        distances = []
        for index in range(ours) if self.stages is None else self.stages:
            pair = same_size(stage(student, index, "student"), stage(teacher, index, "teacher"))
            one, other = (unit(features.square().sum(1).flatten(1)) for features in pair)
            distances.append((one - other).square().sum(1).mean())
        return torch.stack(distances).sum()
