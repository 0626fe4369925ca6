"""How many directions a student's features span before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compressor.scores._probe import Probe

__all__ = ["EffectiveRank"]


@dataclass(frozen=True)
class EffectiveRank:
    """The sum over stages of log r, r the effective rank (Roy & Vetterli 2007, eq. 4) of a stage's channels.

    r is exp(entropy) of the eigenvalues of the C x C covariance of the channels, over samples and
    positions: between 1 and C. Each stage is a bottleneck of its own, so stages count alike and
    doublings count alike. It knows no teacher.
    """

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        return probe.mean(lambda view: sum(effective_rank(stage).log() for stage in view.stages))


def effective_rank(features: Tensor) -> Tensor:
    """Of a map N x C x H x W, a number in [1, C]."""
    channels = features.transpose(0, 1).flatten(1)
    channels = channels - channels.mean(1, keepdim=True)
    # The smaller of the two products that have the same eigenvalues.
    tall = channels if channels.shape[0] <= channels.shape[1] else channels.T
    eigenvalues = torch.linalg.eigvalsh(tall @ tall.T).double().clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(torch.float64).tiny)
    rank: Tensor = torch.special.entr(share).sum().exp()
    return rank
