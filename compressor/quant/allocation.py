"""Which tensor gets how many bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["allocate", "redistribute"]


def allocate(losses: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], limit: int) -> tuple[int, ...] | None:
    """For each tensor one of its options, so that their losses' sum is least and their sizes' sum within ``limit``.

    Solved exactly (a multiple-choice knapsack, by SciPy's HiGHS). None where not even the smallest fit.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag

    if sum(min(each) for each in sizes) > limit:
        return None
    one_each = LinearConstraint(block_diag([np.ones((1, len(each))) for each in sizes], format="csr"), 1, 1)
    within = LinearConstraint(np.concatenate([np.asarray(each, np.float64) for each in sizes])[None, :], -np.inf, limit)
    costs = np.concatenate([np.asarray(each, np.float64) for each in losses])
    solved = milp(costs, constraints=[one_each, within], integrality=np.ones(len(costs)), bounds=Bounds(0, 1))
    assert solved.x is not None
    ends = np.cumsum([len(each) for each in sizes])
    return tuple(int(np.argmax(part)) for part in np.split(solved.x, ends[:-1]))


def redistribute(norms: Sequence[float], points: int) -> tuple[int, ...]:
    """As many points for each tensor as its gradient asks for: ``points`` on average (Polino et al. 2018, section 4.2).

    Half of the points are dealt out alike, the others by the tensors' gradient norms; at least two each, at
    most 256. Whole numbers by the largest remainders.
    """
    share = np.asarray(norms, np.float64)
    share = share / share.sum() if share.sum() > 0 else np.full(len(share), 1 / len(share))
    wished = points / 2 + share * len(share) * (points - points / 2)
    given = np.floor(wished)
    for index in np.argsort(given - wished, kind="stable")[: round(points * len(share) - given.sum())]:
        given[index] += 1
    return tuple(int(each) for each in np.clip(given, 2, 256))
