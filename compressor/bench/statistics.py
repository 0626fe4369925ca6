"""From samples to figures, and how sure they are."""

from __future__ import annotations

import numpy as np

from compressor.bench.timing import Blocks
from compressor.core import Latency

# The largest of n samples lies above the q-quantile with probability 1 - q^n; these are the
# smallest n for which that is 99 % (targets.md section 4). With fewer, a percentile says nothing.
ENOUGH_FOR_P90 = 44
ENOUGH_FOR_P99 = 459

RESAMPLES = 2000


def summarise(blocks: Blocks, threads: int) -> Latency:
    """Median, p90 and p99 over all samples, in milliseconds; a percentile is None without enough of them."""
    samples = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])

    def percentile(q: int, enough: int) -> float | None:
        # "higher" answers with a time that was seen, never with a kinder one in between
        return float(np.percentile(samples, q, method="higher")) if samples.size >= enough else None

    return Latency(
        median=float(np.median(samples)),
        p90=percentile(90, ENOUGH_FOR_P90),
        p99=percentile(99, ENOUGH_FOR_P99),
        samples=int(samples.size),
        threads=threads,
        raw=blocks,
    )


def ratio(baseline: Blocks, candidate: Blocks, seed: int) -> tuple[float, tuple[float, float]]:
    """How many times as fast the candidate is: the median over blocks, and its 90 % interval.

    The blocks are those of one `interleave`: block i of both was taken side by side, so that
    what drifted cancels in d_i = log(median of baseline's / median of candidate's). The interval
    is the 5th to 95th percentile of the median of 2,000 bootstrap resamples of d (targets.md
    section 4).
    """
    d = np.array([np.log(np.median(b) / np.median(c)) for b, c in zip(baseline, candidate, strict=True)])
    picks = np.random.default_rng(seed).integers(d.size, size=(RESAMPLES, d.size))
    low, high = np.quantile(np.median(d[picks], axis=1), (0.05, 0.95))
    return float(np.exp(np.median(d))), (float(np.exp(low)), float(np.exp(high)))
