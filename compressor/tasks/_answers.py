"""What a segmentation network answers: scores or class numbers, in whatever layout, as a class for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from compressor.core.signature import Outputs

__all__ = ["MaskAnswer"]


_STRIP = 64
"""Rows that are interpolated at a time: scores of many classes at a photograph's size would fill memory."""


@dataclass(frozen=True)
class MaskAnswer:
    """Which output holds the answer, and how it is read."""

    output: int = 0
    """The output's place."""
    layout: str = "nchw"
    """Scores N x K x H x W (``nchw``) or N x H x W x K (``nhwc``); class numbers N x H x W (``numbers``)."""
    threshold: float | None = None
    """The score above which a pixel is of class 1, where there is one score; None where each class has one."""

    @classmethod
    def of(cls, outputs: Outputs, classes: int) -> Self | None:
        """Read the outputs of one run; None where none of them has an answer for so many classes.

        One score a pixel does for two classes: a probability where all lie in 0 to 1, else a logit.
        """
        for place, array in enumerate(outputs.values()):
            wanted = (classes, 1) if classes == 2 else (classes,)
            if array.ndim == 4 and min(array.shape[2:]) > 1 and array.shape[1] in wanted:
                return cls(place, "nchw", _threshold(array) if array.shape[1] == 1 else None)
            if array.ndim == 4 and min(array.shape[1:3]) > 1 and array.shape[3] in wanted:
                return cls(place, "nhwc", _threshold(array) if array.shape[3] == 1 else None)
            if array.ndim == 3 and min(array.shape[1:]) > 1 and array.dtype.kind in "iu":
                return cls(place, "numbers")
        return None

    def scores(self, outputs: Outputs) -> NDArray[np.float32]:
        """Return the answer as N x K x h x w; of class numbers N x 1 x h x w."""
        array = list(outputs.values())[self.output]
        if self.layout == "numbers":
            return np.asarray(array)[:, None]
        return array.transpose(0, 3, 1, 2) if self.layout == "nhwc" else array

    def classes(self, scores: NDArray[np.float32], height: int, width: int) -> NDArray[np.int64]:
        """Return the class of each of H x W pixels from a sample's K x h x w `scores`.

        Scores are interpolated bilinearly, class numbers taken from the nearest pixel.
        """
        if self.layout == "numbers":
            rows, columns = (_nearest(n, m) for n, m in zip(scores.shape[1:], (height, width), strict=True))
            return np.asarray(scores[0, rows[:, None], columns], np.int64)
        scores = scores.astype(np.float32)
        strips = [
            self._chosen(_bilinear(scores, height, width, range(top, min(top + _STRIP, height))))
            for top in range(0, height, _STRIP)
        ]
        return np.concatenate(strips)

    def _chosen(self, sized: NDArray[np.float32]) -> NDArray[np.int64]:
        if self.threshold is not None:
            return np.asarray(sized[0] > self.threshold, np.int64)
        return np.asarray(sized.argmax(0), np.int64)


def _threshold(array: NDArray[np.float32]) -> float:
    return 0.5 if array.min() >= 0 and array.max() <= 1 else 0.0


def _nearest(given: int, wanted: int) -> NDArray[np.int64]:
    return np.minimum((np.arange(wanted) * given) // wanted, given - 1)


def _bilinear(scores: NDArray[np.float32], height: int, width: int, rows: range) -> NDArray[np.float32]:
    """Resize K x h x w to the ``rows`` of K x H x W, corners not aligned (as PyTorch's ``interpolate`` by default)."""
    for axis, wanted, shown in ((1, height, np.asarray(rows)), (2, width, np.arange(width))):
        given = scores.shape[axis]
        places = np.maximum((shown + 0.5) * given / wanted - 0.5, 0)
        before = np.minimum(places.astype(np.int64), given - 1)
        after = np.minimum(before + 1, given - 1)
        share = (places - before).astype(np.float32).reshape((-1, 1) if axis == 1 else (1, -1))
        low, high = scores.take(before, axis), scores.take(after, axis)
        scores = low + (high - low) * share
    return scores
