"""Classification: judged by how often the highest score is the right class's."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.core import Metric, Progress, Session, Split, UsageError

__all__ = ["Classification"]


class Classification:
    """One label a sample; the network gives a score for each class."""

    metric_name: ClassVar[str] = "top1"

    @staticmethod
    def evaluate(session: Session, split: Split, batch: int, progress: Progress) -> tuple[Metric, NDArray[np.int64]]:
        """The fraction of ``split`` that is right, and the N predicted labels (-1 where scores are NaN).

        Raises UsageError if the network does not give a score for each of the split's classes.
        """
        total = len(split)
        highest = int(split.labels.max())
        predicted = np.empty(total, np.int64)
        done = 0
        for pixels, labels in split.batches(batch):
            scores = session(pixels)
            if scores.ndim != 2 or scores.shape[0] != len(labels) or scores.shape[1] <= highest:
                raise UsageError(
                    f"the model maps {len(labels)} samples to {scores.shape}, which is not a score for each of the "
                    f"{highest + 1} or more classes of {split.name}",
                    mend="give data of the model's own classes",
                )
            predicted[done : done + len(labels)] = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
            done += len(labels)
            progress(f"evaluating on {split.name}", done, total)
        value = float((predicted == split.labels).mean())
        metric = Metric(Classification.metric_name, value, total, split.fingerprint, split.name)
        return metric, predicted
