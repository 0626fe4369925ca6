"""How far outputs are from what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.core import OutputParity

if TYPE_CHECKING:
    from compressor.core.signature import Outputs

__all__ = ["Tally", "decibels", "output_parity", "parity_of"]

_NOTHING = 1e-30
"""Magnitudes that are taken as zero: below, floats lose their digits."""
_MOST = 200.0


def output_parity(expected: Outputs, got: Outputs, *, labels: bool) -> dict[str, OutputParity]:
    """The parity of each output; with ``labels``, outputs of rank 2 (N x K) also have the agreement of labels."""
    return {name: parity_of(expected[name], got[name], labels=labels) for name in expected}


def parity_of(expected: NDArray[Any], got: NDArray[Any], *, labels: bool) -> OutputParity:
    """The parity of one output. What is no float must be equal: its agreement is the share of equal entries."""
    tally = Tally(labels=labels)
    tally.add(expected, got)
    return tally.parity()


def decibels(expected: NDArray[Any], got: NDArray[Any]) -> float:
    """Signal-to-noise ratio in dB, at most 200; 0 where a value is not finite in one alone."""
    tally = Tally(labels=False)
    tally.add(expected, got)
    return tally.parity().db


class Tally:
    """The parity of one output over parts that come one after another; none is kept.

    With ``labels`` the agreement of the largest entries of rows (N x K) is counted too.
    """

    def __init__(self, *, labels: bool) -> None:
        self.labels = labels
        self.worst = self.largest = self.signal = self.noise = 0.0
        self.finite = self.entries = self.alike = self.judged = 0
        self.fits = True

    def add(self, expected: NDArray[Any], got: NDArray[Any]) -> None:
        """Count one part."""
        if expected.shape != got.shape:
            self.fits = False
            return
        if expected.size == 0:
            return
        want, have = expected.astype(np.float64), got.astype(np.float64)
        same = (want == have) | (np.isnan(want) & np.isnan(have))
        difference = np.where(same, 0.0, have - want)  # equal infinities differ by nothing
        self.worst = float(np.maximum(self.worst, np.max(np.abs(difference))))  # which keeps what is no number
        held = want[np.isfinite(want)]
        self.largest = max(self.largest, float(np.max(np.abs(held), initial=0.0)))
        self.signal += float(np.sum(np.square(held)))
        self.noise += float(np.sum(np.square(difference)))
        self.finite += held.size
        self.entries += want.size
        if expected.dtype.kind != "f":
            self.alike, self.judged = self.alike + int(same.sum()), self.judged + same.size
        elif self.labels and expected.ndim == 2 and expected.shape[1] > 1:
            self.alike += int((want.argmax(1) == have.argmax(1)).sum())
            self.judged += len(want)

    def parity(self) -> OutputParity:
        """The parity of all parts so far."""
        if not self.fits:
            return OutputParity(float("inf"), float("inf"), 0.0, 0.0)
        agreement = self.alike / self.judged if self.judged else None
        return OutputParity(
            self.worst, self.worst / (self.largest if self.largest > _NOTHING else 1.0), self._decibels(), agreement
        )

    def _decibels(self) -> float:
        if not self.entries:
            return _MOST
        if not np.isfinite(self.noise):
            return 0.0
        signal, noise = self.signal / max(1, self.finite), self.noise / self.entries
        return min(_MOST, 10 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30))))
