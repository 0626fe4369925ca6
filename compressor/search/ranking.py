"""From several scores to one order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["WEIGHTS", "blend"]

WEIGHTS: Mapping[str, float] = {"width": 8, "params": 4, "effective-rank": 2, "relation": 1, "semantic": 1}
"""The default score: benchmarks/rank_quality.py is the evidence for it."""


def blend(scores: Mapping[str, ArrayLike], weights: Mapping[str, float] = WEIGHTS) -> NDArray[np.float64]:
    """The weighted mean of ranks within the population, in (0, 1], for each candidate; ties share their mean rank.

    Ranks, because the scores' scales have nothing in common (DisWOT's M_s is some hundred times its
    M_r). A score that ``scores`` lacks is left out; NaN ranks lowest. ``scores`` has at least one that has a weight.
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
