"""The student's similarities between samples against the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.losses._loss import Outputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Similarity"]


@dataclass(frozen=True)
class Similarity:
    """The squared Frobenius distance of the N x N similarities of a batch, over N².

    Similarity-preserving distillation, Tung and Mori 2019, arXiv 1907.09682: with Z the feature map
    flattened to N x CHW, the rows of Z Zᵀ are normalised to length 1. It is the relation score of DisWOT
    (Dong et al. 2023) with the opposite sign. Channels and sizes may differ.
    """

    stage: int = -1

    kind: ClassVar[str] = "similarity"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        from compressor.losses._features import stage, unit

        def similarities(outputs: Outputs, whose: str) -> Tensor:
            flat = stage(outputs, self.stage, whose).flatten(1)
            return unit(flat @ flat.T)

        difference = similarities(student, "student") - similarities(teacher, "teacher")
        return difference.square().sum() / len(difference) ** 2
