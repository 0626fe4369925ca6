"""Classification: judged by how often the highest score is the right class's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.core import (
    Data,
    DataSource,
    ImageSplit,
    InputSpec,
    Json,
    Metric,
    Normalization,
    OutputParity,
    Progress,
    Session,
    UsageError,
)
from compressor.feeds import run_in_batches
from compressor.tasks._evidence import Evidence
from compressor.tasks._images import prepare_images
from compressor.tasks._parity import output_parity
from compressor.tasks._picture import picture

if TYPE_CHECKING:
    from compressor.core.signature import Outputs

__all__ = ["Classification"]

_SHOWN = 24
_SIDE = 64
"""Pixels: what a sample is shrunk to for the report, if it is larger."""


@dataclass(frozen=True)
class Classification:
    """One label a sample; the network's first output of rank 2 has a score for each class."""

    classes: tuple[str, ...] = ()
    """Their names, where data has told them."""

    kind: ClassVar[str] = "classification"
    profile: ClassVar[str] = "balanced"
    losses: ClassVar[tuple[Mapping[str, Json], ...]] = (
        {"loss": "kl", "weight": 0.9, "temperature": 4.0},
        {"loss": "cross-entropy", "weight": 0.1},
    )
    spatial: ClassVar[bool] = False
    output_range: ClassVar[tuple[float, float] | None] = None
    mixed_precision: ClassVar[bool] = False
    golden: ClassVar[int] = 256

    @classmethod
    def fits(cls, evidence: Evidence) -> Self | None:
        """A network with an output of N x K scores, K the data's classes; without data, one output of an image.

        Arrays with class numbers may lack the highest classes.
        Raises UsageError where images of classes were given, and the network does not tell so many apart.
        """
        scores = next((shape for shape in evidence.outputs if len(shape) == 2), None)
        if evidence.source is not None and not evidence.source.images:
            return cls._of_arrays(scores, evidence)
        if evidence.image is None or evidence.targets == "images" or evidence.family == "super-resolution":
            return None
        if evidence.targets == "labels":
            assert evidence.source is not None
            classes = tuple(evidence.source.classes)
            if scores is None:
                raise UsageError(
                    f"the model maps an image to {' and '.join(str(list(s)) for s in evidence.outputs)}, "
                    "not to a score a class",
                    hint="give a classifier, or unlabelled images: a folder without folders of classes",
                )
            if scores[1] != len(classes):
                raise UsageError(
                    f"the model tells {scores[1]} classes apart, the data has {len(classes)}",
                    hint="give the data that the model was trained for",
                )
            return cls(classes)
        alone = scores is not None and scores[1] > 1 and len(evidence.outputs) == 1
        known = evidence.source is None and (evidence.family == cls.kind or alone)
        return cls() if known or (evidence.named and scores is not None) else None

    @classmethod
    def _of_arrays(cls, scores: tuple[int, ...] | None, evidence: Evidence) -> Self | None:
        """Take arrays that are fed as they are, where there is a class number a sample, and as many scores or more."""
        assert evidence.source is not None
        told = len(evidence.source.classes)
        if evidence.targets != "labels" or scores is None or scores[1] < told or scores[1] < 2:
            return None
        return cls(tuple(map(str, range(scores[1]))))

    @property
    def facts(self) -> Mapping[str, Json]:
        """The names of the classes, empty where they are not known: the runner prints classes by this."""
        return {"classes": list(self.classes)}

    def prepare(self, source: DataSource, input: InputSpec, normalization: Normalization, input_name: str) -> Data:
        """Images with their labels; of a source without classes, images alone."""
        return prepare_images(source, input, normalization, input_name)

    def parity(self, expected: Outputs, got: Outputs) -> dict[str, OutputParity]:
        """The parity of each output, with the agreement of labels."""
        return output_parity(expected, got, labels=True)

    def evaluate(
        self, session: Session, split: ImageSplit, batch: int, progress: Progress, reference: Session | None = None
    ) -> tuple[Metric, NDArray[np.int64]]:
        """The fraction of ``split`` that is right, and the N predicted labels (-1 where scores are NaN).

        Raises UsageError if the network does not give a score for each of the split's classes.
        """
        total = len(split)
        highest = int(split.labels.max())
        predicted = np.empty(total, np.int64)
        done = 0
        for feeds, labels in split.batches(batch):
            assert labels is not None
            scores = _scores(run_in_batches(session, feeds, batch))
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
        metric = Metric("top1", value, total, split.fingerprint, split.name, unit="%")
        return metric, predicted

    def allowance(self, metric: Metric) -> float:
        """One percentage point."""
        return 1.0

    def samples(
        self,
        split: ImageSplit,
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
        if not hasattr(split, "pixels"):
            return None  # arrays: nobody knows how to show them
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


def _scores(outputs: Outputs) -> NDArray[np.float32]:
    """The first output of rank 2, else the first."""
    found: NDArray[np.float32] = next((o for o in outputs.values() if o.ndim == 2), next(iter(outputs.values())))
    return found


def _drawn(kinds: Sequence[NDArray[np.int64]], seed: int) -> NDArray[np.int64]:
    """Rows to show, in the kinds' order: a third of them of each of the first two, where there are so many."""
    generator = np.random.default_rng([seed, 5])
    left, taken = _SHOWN, []
    for kind, share in zip(kinds, (3, 2, 2, 1), strict=True):
        count = min(len(kind), -(-left // share))
        taken.append(np.sort(generator.choice(kind, count, replace=False)))
        left -= count
    return np.concatenate(taken)
