"""Training samples together with a teacher's outputs."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compressor.train.patches import Patches
from compressor.train.samples import Samples

__all__ = ["DistillationData"]


class DistillationData(Protocol):
    """Training samples with a teacher's outputs: `SoftTargets`, `LiveTargets`, or `Patches` for super-resolution."""

    @property
    def samples(self) -> Samples | Patches: ...

    def batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images N x C x H x W, labels and the teacher's outputs (N x K logits, or larger images) in an epoch."""
        ...
