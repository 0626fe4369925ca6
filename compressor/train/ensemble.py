"""Several teachers as one: how each suits the data, and the mean of their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from compressor.core import Normalization

__all__ = ["Ensemble", "renormalised", "suitability"]

Predict = Callable[[Tensor], Tensor]
"""Maps images N x C x H x W to class scores N x K."""
_POWER = 12
"""The power of the suitabilities that weights are in proportion to: it tells close ones apart."""


@dataclass(frozen=True)
class Ensemble:
    """Teachers with weights that sum to 1."""

    teachers: tuple[Predict, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, teachers: Sequence[Predict], weighting: str, images: Tensor, labels: NDArray[np.int64]) -> Self:
        """Weight the teachers: alike (``mean``), by their suitability for labelled images, or the most suitable alone.

        DistillWeighted and DistillNearest, Borup et al. 2023, arXiv 2304.12314, section 3. Where none suits, all count
        alike.
        """
        suited = np.ones(len(teachers))
        if weighting != "mean":
            suited = np.array([max(0.0, suitability(teach(images).numpy(), labels)) for teach in teachers])
            suited = suited if suited.any() else np.ones(len(teachers))
        if weighting == "nearest":
            suited = (np.arange(len(suited)) == suited.argmax()).astype(float)
        shares = suited**_POWER / (suited**_POWER).sum()
        return cls(tuple(teachers), tuple(float(share) for share in shares))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logarithm of the mean of the teachers' class probabilities (MEAL V2, arXiv 2009.08453, eq. 1)."""
        answers = [
            torch.log_softmax(teach(images).double(), 1) + float(np.log(weight))
            for teach, weight in zip(self.teachers, self.weights, strict=True)
            if weight > 0
        ]
        return torch.logsumexp(torch.stack(answers), 0).float()


def suitability(features: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return how alike pairs of samples lie in a teacher's N x D features and in their labels: -1 to 1.

    PARC, Bolya et al. 2021, arXiv 2111.06977, section 3.2: Spearman's correlation over all pairs between one less
    Pearson's correlation of the features, and whether the labels differ. 0 where either does not vary.
    """
    upper = np.triu_indices(len(labels), 1)
    centred = features - features.mean(1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    rows = centred / np.where(lengths > 0, lengths, 1.0)
    apart = (1 - rows @ rows.T)[upper]
    differ = (labels[:, None] != labels[None, :]).astype(float)[upper]
    if len(apart) < 2 or np.ptp(apart) == 0 or np.ptp(differ) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(apart), rankdata(differ))[0, 1])


def renormalised(teach: Predict, wanted: Normalization, given: Normalization) -> Predict:
    """Return a teacher that takes images of the normalisation ``given`` in place of its own (both N x C x H x W)."""
    if wanted == given:
        return teach
    (mean, std), (to_mean, to_std) = (
        (torch.tensor(each.mean)[:, None, None], torch.tensor(each.std)[:, None, None]) for each in (given, wanted)
    )

    def predict(images: Tensor) -> Tensor:
        pixels = images.flip(1) if given.channels == "bgr" else images  # means are of red, green, blue
        scaled = ((pixels * std + mean) * (wanted.scale / given.scale) - to_mean) / to_std
        return teach((scaled.flip(1) if wanted.channels == "bgr" else scaled).contiguous())

    return predict
