"""The norm of the gradient (Abdelfattah et al., ICLR 2021, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from compressor.calling import named_tensors
from compressor.scores.common.probe import Probe, check_classes

__all__ = ["Gradnorm"]


@dataclass(frozen=True)
class Gradnorm:
    """The sum over convolutions and linear layers of the Euclidean norm of the cross-entropy's gradient.

    Raises UsageError for a network that does not give a score for each of the data's classes.
    """

    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    def __call__(self, probe: Probe) -> float:
        return sum(self._norm(probe, seed) for seed in probe.seeds) / len(probe.seeds)

    def _norm(self, probe: Probe, seed: int) -> float:
        network, labels = probe.network(seed), probe.batch.labels
        logits = next(iter(named_tensors(network(probe.batch.images)).values()))
        check_classes(logits, labels)
        F.cross_entropy(logits, labels).backward()
        return float(sum(p.grad.norm() for p in network.parameters() if p.grad is not None and p.ndim > 1))
