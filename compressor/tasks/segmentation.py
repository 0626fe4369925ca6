"""Semantic segmentation: judged by the mean intersection over union of the classes, at the masks' own size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.core import (
    Data,
    DataSource,
    InputSpec,
    Json,
    Metric,
    Normalization,
    OutputParity,
    Progress,
    Session,
    UsageError,
)
from compressor.data import MaskSource, MaskSplit
from compressor.feeds import random_feeds, run_in_batches
from compressor.figures import format_value
from compressor.tasks._answers import MaskAnswer
from compressor.tasks._evidence import Evidence
from compressor.tasks._mask_pictures import mask_picture
from compressor.tasks._parity import output_parity
from compressor.tasks._picture import picture

if TYPE_CHECKING:
    from compressor.core.signature import Outputs

__all__ = ["Segmentation"]

_VOID = 255
_SHOWN, _SIDE = 4, 240
"""Images that a report shows, and the pixels that they are shrunk to."""


@dataclass(frozen=True)
class Segmentation:
    """A class for each pixel; pixels without one do not count.

    The network may answer at a fraction of its input's size, with a score for each class, one score of two classes, or
    class numbers. Its answer is brought to the mask's size and compared there. Intersections and unions are summed over
    all images before they are divided (Everingham et al. 2015, section 4.3), and classes that no mask has are left out.
    """

    classes: tuple[str, ...] = ()
    """Their names."""
    output: int = 0
    layout: str = "nchw"
    threshold: float | None = None
    """How the answer is read: see `compressor.tasks._answers.MaskAnswer`."""

    kind: ClassVar[str] = "segmentation"
    profile: ClassVar[str] = "ptq"
    losses: ClassVar[tuple[Mapping[str, Json], ...]] = ({"loss": "output-l1", "weight": 1.0},)
    spatial: ClassVar[bool] = False
    output_range: ClassVar[tuple[float, float] | None] = None
    mixed_precision: ClassVar[bool] = False
    golden: ClassVar[int] = 4

    @classmethod
    def fits(cls, evidence: Evidence) -> Self | None:
        """A network that answers with a map for the classes of the data's masks.

        Raises UsageError where masks were given and no output is one. Without masks it is not told from other maps.
        """
        if not isinstance(evidence.source, MaskSource):
            return None
        classes = evidence.source.classes
        sizes = dict.fromkeys(evidence.signature.free, 1)
        if evidence.image is not None:
            feeds = random_feeds(evidence.signature, {**sizes, **_sides(evidence)}, None, 0)
            answer = MaskAnswer.of(evidence.run(feeds), len(classes))
            if answer is not None:
                return cls(classes, answer.output, answer.layout, answer.threshold)
        raise UsageError(
            f"the model maps an image to {' and '.join(str(list(s)) for s in evidence.outputs)}, and the masks have "
            f"{len(classes)} classes",
            hint="give the data that the model was trained for; classes.txt names its classes in their order",
        )

    @property
    def facts(self) -> Mapping[str, Json]:
        """The names of the classes, and how the answer is read."""
        answer = {"output": self.output, "layout": self.layout, "threshold": self.threshold}
        return {"classes": list(self.classes), **answer}

    @property
    def _answer(self) -> MaskAnswer:
        return MaskAnswer(self.output, self.layout, self.threshold)

    def prepare(self, source: DataSource, input: InputSpec, normalization: Normalization, input_name: str) -> Data:
        """Images with masks. Raises UsageError of other data."""
        if not isinstance(source, MaskSource):
            raise UsageError("the data has no masks, by which this task judges", hint="give images/ beside masks/")
        return source.prepare(input, normalization, input_name)

    def parity(self, expected: Outputs, got: Outputs) -> dict[str, OutputParity]:
        """The parity of each output."""
        return output_parity(expected, got, labels=False)

    def evaluate(
        self, session: Session, split: MaskSplit, batch: int, progress: Progress, reference: Session | None = None
    ) -> tuple[Metric, NDArray[np.float64]]:
        """The mean IoU over all of ``split``, and each image's share of right pixels.

        Further figures: the share of right pixels, and each class's IoU. Raises UsageError for another answer.
        """
        count = len(self.classes)
        table, right = np.zeros((count, count), np.int64), list[float]()
        for number, (truth, predicted) in enumerate(self._predicted(session, split, batch)):
            counted = confusion(truth, predicted, count)
            table += counted
            right.append(float(np.trace(counted) / max(1, counted.sum())))
            progress(f"evaluating on {split.name}", number + 1, len(split))
        if not table.any():
            raise UsageError(
                f"no pixel of the masks of {split.name} counts: all are void", hint="judge on others with --eval"
            )
        by_class = ious(table)
        told = {f"iou {name}": float(iou) for name, iou in zip(self.classes, by_class, strict=True) if iou == iou}
        also = {"pixel_accuracy": float(np.trace(table) / max(1, table.sum())), **told}
        value = float(np.nanmean(by_class)) if told else 0.0
        return Metric("miou", value, len(split), split.fingerprint, split.name, also, unit="%"), np.array(right)

    def _predicted(
        self, session: Session, split: MaskSplit, batch: int
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Yield each image's mask, and the class that the network gives each of its pixels."""
        answer, number = self._answer, 0
        for feeds in split.feeds(batch):
            for scores in answer.scores(run_in_batches(session, feeds, batch)):
                mask = split.mask(number)
                yield mask, answer.classes(scores, *mask.shape)
                number += 1

    def allowance(self, metric: Metric) -> float:
        """One percentage point."""
        return 1.0

    def samples(
        self,
        split: MaskSplit,
        classes: Sequence[str],
        outcomes: Mapping[str, NDArray[np.float64]],
        sessions: Mapping[str, Session],
        seed: int,
    ) -> Json:
        """Describe the images on which teacher and result differ most, in the form of the report's ``samples``."""
        lost = np.argsort(outcomes["result"] - outcomes["teacher"], kind="stable")[:_SHOWN]
        return {
            "layout": "rows",
            "title": "Masks",
            "text": f"Images of {split.name} on which the result loses most; void is black. {self._legend()}",
            "judged_on": split.name,
            "facts": [],
            "shown": [self._sample(split.take(np.array([row])), sessions, outcomes, row) for row in lost.tolist()],
        }

    def _sample(
        self,
        split: MaskSplit,
        sessions: Mapping[str, Session],
        outcomes: Mapping[str, NDArray[np.float64]],
        row: int,
    ) -> dict[str, Json]:
        truth = split.mask(0)
        made = {side: next(self._predicted(session, split, 1))[1] for side, session in sessions.items()}
        images = {"image": picture(split.pixels()[0], _SIDE), "truth": self._picture(truth)}
        images |= {side: self._picture(mask) for side, mask in made.items()}
        shares = {side: format_value(float(outcomes[side][row]), "%") for side in made}
        lines = [{"name": side, "text": f"{shares[side]} of pixels right", "good": None} for side in made]
        lines.append({"name": "they differ", "text": self._changes(made["teacher"], made["result"]), "good": None})
        return {
            "name": split.raw.images.name(int(split.raw.rows[0])),
            "images": [{"caption": caption, "png": png} for caption, png in images.items()],
            "lines": lines,
        }

    def _picture(self, mask: NDArray[np.integer]) -> str:
        return mask_picture(mask, len(self.classes), _SIDE)

    def _legend(self) -> str:
        return f"Classes from dark to light: {', '.join(self.classes)}."

    def _changes(self, teacher: NDArray[np.int64], result: NDArray[np.int64]) -> str:
        """What the teacher calls one thing and the result another, most often."""
        changed = confusion(teacher.astype(np.uint8), result, len(self.classes))
        np.fill_diagonal(changed, 0)
        if not changed.any():
            return "nowhere"
        one, other = divmod(int(changed.argmax()), len(self.classes))
        share = format_value(changed[one, other] / teacher.size, "%")
        return f"{self.classes[one]} as {self.classes[other]} {share}"


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Count pixels by true class (rows) and predicted class (columns); void ones are left out.

    An answer that is no class counts as wrong: it is put on the class after the true one.
    """
    counted = truth != _VOID
    rows, columns = truth[counted].astype(np.int64), predicted[counted]
    columns = np.where((columns >= 0) & (columns < classes), columns, (rows + 1) % classes)
    return np.bincount(classes * rows + columns, minlength=classes**2).reshape(classes, classes)


def ious(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each class's intersection over union; NaN of a class that no mask has."""
    right, true = np.diagonal(table).astype(np.float64), table.sum(1)
    union = true + table.sum(0) - np.diagonal(table)
    return np.where(true > 0, right / np.maximum(union, 1), np.nan)


def _sides(evidence: Evidence) -> dict[str, int]:
    """The sizes of the free axes of the image input."""
    assert evidence.image is not None
    shape = evidence.signature.input.shape
    sides = (1, *evidence.image.shape) if shape[1] == evidence.image.channels else (1, *evidence.image.shape[1:], 1)
    return {axis: side for axis, side in zip(shape, sides, strict=True) if isinstance(axis, str)}
