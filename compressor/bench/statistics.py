"""Figures of latency samples, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.bench.timing import Blocks
from compressor.core import Latency

RESAMPLES = 2000
SURE = 0.99
"""Confidence of the bounds of a percentile."""
_DETECTABLE = 3.67
"""sqrt(pi / 2) * (1.645 + 1.282): see `detectable`."""


def enough(percentile: float) -> int:
    """Return the fewest samples whose largest lies above the percentile with 99 % probability: 1 - q^n >= 0.99.

    That is Wilks's bound (Annals of Mathematical Statistics 12, 1941): 44 samples for p90 and 459 for p99. With fewer,
    no sample bounds the percentile from above.
    """
    return math.ceil(math.log(1 - SURE) / math.log(percentile / 100))


def summarise(blocks: Blocks, threads: int) -> Latency:
    """Return median, p90 and p99 over all samples, in milliseconds; a percentile is None without enough of them."""
    samples = _all(blocks)

    def percentile(q: int) -> float | None:
        # "higher" answers with a time that was measured, never with a shorter one in between
        return float(np.percentile(samples, q, method="higher")) if samples.size >= enough(q) else None

    return Latency(
        median=float(np.median(samples)),
        p90=percentile(90),
        p99=percentile(99),
        samples=int(samples.size),
        threads=threads,
        raw=blocks,
    )


def ratio(baseline: Blocks, candidate: Blocks, seed: int) -> tuple[float, tuple[float, float]]:
    """Return how many times as fast the candidate is: the median over blocks, and its 90 % interval.

    The blocks are those of one `interleave`. Block i of both was measured side by side, so that
    drift cancels in d_i = log(median of baseline's / median of candidate's). The interval
    is the 5th to 95th percentile of the median of 2,000 bootstrap resamples of d (the percentile interval of Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3).
    """
    d = differences(baseline, candidate)
    picks = np.random.default_rng(seed).integers(d.size, size=(RESAMPLES, d.size))
    low, high = np.quantile(np.median(d[picks], axis=1), (0.05, 0.95))
    return float(np.exp(np.median(d))), (float(np.exp(low)), float(np.exp(high)))


def differences(baseline: Blocks, candidate: Blocks) -> NDArray[np.float64]:
    """Return d_i = log(median of baseline's block i / median of candidate's)."""
    return np.array([np.log(np.median(b) / np.median(c)) for b, c in zip(baseline, candidate, strict=True)])


def detectable(spread: float, blocks: int) -> float:
    """Return the smallest change that so many blocks resolve, as a share: exp(3.67 s_d / sqrt(B)) - 1.

    A median of B normal values of deviation s_d has the standard error sqrt(pi / 2) s_d / sqrt(B). The bound of a 90 %
    interval lies 1.645 of them away, and 1.282 more find a true change in 90 % of all tries.
    """
    return math.expm1(_DETECTABLE * spread / math.sqrt(blocks))


@dataclass(frozen=True, slots=True)
class Quantile:
    """A percentile of all samples, and the two of them between which it lies, each side with 99 % confidence."""

    value: float
    low: float | None
    """None with too few samples for a bound."""
    high: float | None


def quantile(blocks: Blocks, percentile: float) -> Quantile:
    """Return the percentile's order statistic and its binomial bounds, in milliseconds.

    Of n samples the number below the true percentile is binomial(n, q). The bounds are the order statistics that
    this number passes, on either side, with at most 1 % probability (David and Nagaraja, Order Statistics, 2003,
    section 7.1). Samples are taken for independent, which those of one block are not quite.
    """
    samples = np.sort(_all(blocks))
    n, q = samples.size, percentile / 100
    below = np.cumsum(_binomial(n, q))
    low = int(np.searchsorted(below, 1 - SURE))  # x_(low) is over the percentile with at most 1 % probability
    high = int(np.searchsorted(below, SURE)) + 1
    return Quantile(
        value=float(np.percentile(samples, percentile, method="higher")),
        low=float(samples[low - 1]) if low >= 1 else None,
        high=float(samples[high - 1]) if high <= n else None,
    )


def _binomial(n: int, q: float) -> NDArray[np.float64]:
    """Return the probabilities of 0 to n successes."""
    grown = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    k = np.arange(n + 1)
    found: NDArray[np.float64] = np.exp(grown[n] - grown - grown[::-1] + k * math.log(q) + (n - k) * math.log1p(-q))
    return found


def _all(blocks: Blocks) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])
