"""Classification: judged by how often the highest score is the right class's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.core import Json, Metric, Progress, Session, Split, UsageError
from compressor.tasks._picture import picture

__all__ = ["Classification"]

_SHOWN = 24
_SIDE = 64
"""Pixels: what a sample is shrunk to for the report, if it is larger."""


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
                    hint="give data of the model's own classes",
                )
            predicted[done : done + len(labels)] = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
            done += len(labels)
            progress(f"evaluating on {split.name}", done, total)
        value = float((predicted == split.labels).mean())
        metric = Metric(Classification.metric_name, value, total, split.fingerprint, split.name, unit="%")
        return metric, predicted

    @staticmethod
    def samples(
        split: Split,
        classes: Sequence[str],
        outcomes: Mapping[str, NDArray[np.int64]],
        sessions: Mapping[str, Session],
        seed: int,
    ) -> Json:
        """Describe single samples through teacher and result, in the form of the report's ``samples``.

        ``outcomes`` and ``sessions`` map ``teacher`` and ``result`` to what `evaluate` returned and to the session.
        The facts count all samples of ``split``. Up to 24 are shown: first those that only one of the two has right,
        then those that both have wrong, then those that both have right. An image has 64 pixels a side or less.
        """
        teacher, result, labels = outcomes["teacher"], outcomes["result"], split.labels
        before, after = teacher == labels, result == labels
        kinds = {
            "only the teacher is right": before & ~after,
            "only the result is right": ~before & after,
            "both are wrong": ~before & ~after,
            "both are right": before & after,
        }
        drawn = _drawn([np.flatnonzero(kind) for kind in kinds.values()], seed)
        images = split.pixels(drawn) if len(drawn) else np.empty(0, np.uint8)

        def name(label: int) -> str:
            return classes[label] if 0 <= label < len(classes) else "none"

        def line(side: str, row: int) -> Json:
            label = int(outcomes[side][row])
            return {"name": side, "text": name(label), "good": label == int(labels[row])}

        total = len(split)
        return {
            "layout": "grid",
            "title": "Predictions",
            "text": f"{total:,} samples of {split.name}; those that only one of the two has right are shown first.",
            "judged_on": split.name,
            "facts": [{"name": kind, "value": int(rows.sum()), "of": total} for kind, rows in kinds.items()],
            "shown": [
                {
                    "name": name(int(labels[row])),
                    "images": [{"caption": "", "png": picture(image, _SIDE)}],
                    "lines": [line(side, row) for side in ("teacher", "result")],
                }
                for row, image in zip(drawn.tolist(), images, strict=True)
            ],
        }


def _drawn(kinds: Sequence[NDArray[np.int64]], seed: int) -> NDArray[np.int64]:
    """Rows to show, in the kinds' order: a third of them of each of the first two, where there are so many."""
    generator = np.random.default_rng([seed, 5])
    left, taken = _SHOWN, []
    for kind, share in zip(kinds, (3, 2, 2, 1), strict=True):
        count = min(len(kind), -(-left // share))
        taken.append(np.sort(generator.choice(kind, count, replace=False)))
        left -= count
    return np.concatenate(taken)
