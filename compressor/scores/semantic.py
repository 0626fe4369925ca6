"""DisWOT's semantic term (Dong et al., CVPR 2023, eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.core import UsageError
from compressor.scores.common.probe import Probe, View, check_classes

__all__ = ["Semantic"]


@dataclass(frozen=True)
class Semantic:
    """M_s = -sum over classes of ||O_T - O_S||^2_F / (K C), where O is a class's gradient times itself, C x C.

    The gradient is that of the cross-entropy by the classifier's weights (K x C). The rows of the outer product O
    are normalised. O has rank one, so with the classes' gradients t and s this equals
    -mean over classes of [2 - 2 cos(t, s) mean over channels of sign(t) sign(s)], and no C x C matrix is made.

    The paper takes equal K and C. For different C the wider gradient is pooled to the narrower (adaptive average
    pooling over channels), which is our own and depends on the order of channels. M_s is at most 0.
    Raises UsageError for different K, and for fewer than the data has.
    """

    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    for_images: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        assert probe.teacher is not None
        labels = probe.batch.labels
        wanted = gradient(probe.teacher, labels)
        return probe.mean(lambda view: _likeness(wanted, gradient(view, labels)))


def gradient(view: View, labels: Tensor) -> Tensor:
    """Return the gradient of the mean cross-entropy by the classifier's weights: (softmax - onehot)^T pooled / N."""
    pooled, logits = view.pooled.flatten(1).double(), view.logits.double()
    check_classes(logits, labels)
    error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
    return error.T @ pooled / len(labels)


def _likeness(teacher: Tensor, student: Tensor) -> Tensor:
    if len(teacher) != len(student):
        raise UsageError(
            f"the teacher has {len(teacher)} classes, the student {len(student)}",
            hint="give a teacher of the same task",
        )
    width = min(teacher.shape[1], student.shape[1])
    t, s = (F.adaptive_avg_pool1d(g, width) if g.shape[1] > width else g for g in (teacher, student))
    signs = (t.sign() * s.sign()).mean(1)
    return -torch.mean(2 - 2 * F.cosine_similarity(t, s, dim=1, eps=0) * signs)
