"""DisWOT's relation term (Dong et al., CVPR 2023, eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.scores.common.probe import Probe

__all__ = ["Relation"]


@dataclass(frozen=True)
class Relation:
    """M_r = -||A_T - A_S||^2_F / N^2, where A holds the samples' similarities in the last feature map, rows normalised.

    Channels and sizes of the two maps may differ. M_r is at most 0.
    """

    needs_teacher: ClassVar[bool] = True

    def __call__(self, probe: Probe) -> float:
        assert probe.teacher is not None
        wanted = _similarities(probe.teacher.last)
        return probe.mean(lambda view: -torch.mean((wanted - _similarities(view.last)) ** 2))


def _similarities(features: Tensor) -> Tensor:
    """Return the matrix A (N x N) of features N x C x H x W."""
    flat = features.flatten(1).double()
    return F.normalize(flat @ flat.T)
