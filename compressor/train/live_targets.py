"""Training samples without stored teacher outputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.train.samples import Samples

__all__ = ["LiveTargets"]


@dataclass(frozen=True)
class LiveTargets:
    """Samples for a training in which the teacher runs in every step; images are augmented anew in every epoch."""

    samples: Samples
    _drawn: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented images, labels (as `Samples.batch`), and zeros N x K in place of the teacher's logits."""
        if epoch not in self._drawn:
            self._drawn.clear()
            self._drawn[epoch] = self.samples.drawn(epoch)
        images, labels = self.samples.batch(rows, self._drawn[epoch])
        return images, labels, torch.zeros(len(rows), self.samples.classes)
