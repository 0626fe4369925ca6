"""The number of directions that a student's features span before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compressor.scores.common.probe import Probe

__all__ = ["EffectiveRank"]


@dataclass(frozen=True)
class EffectiveRank:
    """The sum over stages of log r, where r is the effective rank of a stage's channels (Roy & Vetterli 2007, eq. 4).

    r, between 1 and C, is exp(entropy) of the eigenvalues of the C x C covariance of the channels over samples and
    positions. Each stage is a bottleneck of its own, so every stage has the same weight; by the logarithm every
    doubling of r counts the same. It compares with no teacher.
    """

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        return probe.mean(lambda view: sum(effective_rank(stage).log() for stage in view.stages))


def effective_rank(features: Tensor) -> Tensor:
    """Return the effective rank of a feature map N x C x H x W, a number in [1, C]."""
    channels = features.transpose(0, 1).flatten(1)
    channels = channels - channels.mean(1, keepdim=True)
    # X X^T and X^T X have the same nonzero eigenvalues: take the smaller.
    tall = channels if channels.shape[0] <= channels.shape[1] else channels.T
    eigenvalues = torch.linalg.eigvalsh(tall @ tall.T).double().clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(torch.float64).tiny)
    rank: Tensor = torch.special.entr(share).sum().exp()
    return rank
