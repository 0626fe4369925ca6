"""How far outputs are from what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.core import OutputParity

if TYPE_CHECKING:
    from compressor.core.signature import Outputs

__all__ = ["decibels", "output_parity", "parity_of"]

_MOST = 200.0


def output_parity(expected: Outputs, got: Outputs, *, labels: bool) -> dict[str, OutputParity]:
    """The parity of each output; with ``labels``, outputs of rank 2 (N x K) also have the agreement of labels."""
    return {name: parity_of(expected[name], got[name], labels=labels) for name in expected}


def parity_of(expected: NDArray[Any], got: NDArray[Any], *, labels: bool) -> OutputParity:
    """The parity of one output. What is no float must be equal: its agreement is the share of equal entries."""
    if expected.size == 0 and got.shape == expected.shape:
        return OutputParity(0.0, 0.0, _MOST, None)
    if expected.shape != got.shape:
        return OutputParity(float("inf"), float("inf"), 0.0, 0.0)
    want, have = expected.astype(np.float64), got.astype(np.float64)
    same = (want == have) | (np.isnan(want) & np.isnan(have))
    difference = np.where(same, 0.0, np.abs(have - want))  # equal infinities differ by nothing
    worst = float(np.max(difference))
    finite = np.abs(want[np.isfinite(want)])
    largest = float(np.max(finite, initial=0.0)) or 1.0
    agreement = None
    if expected.dtype.kind != "f":
        agreement = float(same.mean())
    elif labels and expected.ndim == 2 and expected.shape[1] > 1:
        agreement = float((want.argmax(1) == have.argmax(1)).mean())
    return OutputParity(worst, worst / largest, decibels(expected, got), agreement)


def decibels(expected: NDArray[Any], got: NDArray[Any]) -> float:
    """Signal-to-noise ratio in dB, at most 200; 0 where a value is not finite in one alone."""
    want, have = expected.astype(np.float64), got.astype(np.float64)
    same = (want == have) | (np.isnan(want) & np.isnan(have))
    noise = np.where(same, 0.0, have - want)
    if not np.isfinite(noise).all():
        return 0.0
    signal = float(np.mean(np.square(want[np.isfinite(want)]))) if np.isfinite(want).any() else 0.0
    return min(_MOST, 10 * float(np.log10(max(signal, 1e-30) / max(float(np.mean(noise**2)), 1e-30))))
