"""The default score: a blend of several scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["WEIGHTS", "blend"]

WEIGHTS: Mapping[str, float] = {"stage-macs": 2, "effective-rank": 1}
"""The weights of the default score. benchmarks/rank_quality.py is the evidence for them."""


def blend(scores: Mapping[str, ArrayLike], weights: Mapping[str, float] = WEIGHTS) -> NDArray[np.float64]:
    """Return the weighted mean of each candidate's ranks within the population, in (0, 1]; ties share their mean rank.

    Ranks are taken because the scores' scales differ (DisWOT's M_s is some hundred times its M_r). Weights of scores
    that are not in ``scores`` are left out; at least one must be there. NaN ranks lowest.
    """
    from scipy.stats import rankdata

    used = {name: weight for name, weight in weights.items() if name in scores}
    ranks = {
        name: rankdata(np.nan_to_num(np.asarray(scores[name], np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf))
        for name in used
    }
    total = sum(weight * ranks[name] for name, weight in used.items()) / sum(used.values())
    blended: NDArray[np.float64] = np.asarray(total, np.float64) / max(1, len(total))
    return blended
