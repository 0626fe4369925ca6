"""Bits and points shared out among weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["share_points", "solve_knapsack"]

_MAX_POINTS = 256


def solve_knapsack(
    losses: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], limit: int
) -> tuple[int, ...] | None:
    """Choose one option for each item: the least sum of losses with a sum of sizes within ``limit``.

    A multiple-choice knapsack, solved exactly by SciPy's HiGHS. Returns the options' indices, or None where not
    even the smallest fit.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag

    if sum(min(each) for each in sizes) > limit:
        return None
    one_each = LinearConstraint(block_diag([np.ones((1, len(each))) for each in sizes], format="csr"), 1, 1)
    taken = np.concatenate([np.asarray(each, np.float64) for each in sizes])
    taken = np.minimum(taken, limit + 1)  # no more than does not fit: numbers of other magnitudes confuse the solver
    within = LinearConstraint(taken[None, :], -np.inf, limit)
    costs = np.concatenate([np.asarray(each, np.float64) for each in losses])
    solved = milp(costs, constraints=[one_each, within], integrality=np.ones(len(costs)), bounds=Bounds(0, 1))
    assert solved.x is not None
    ends = np.cumsum([len(each) for each in sizes])
    return tuple(int(np.argmax(part)) for part in np.split(solved.x, ends[:-1]))


def share_points(norms: Sequence[float], points: int) -> tuple[int, ...]:
    """Share out points among tensors by their gradients' ``norms``: ``points`` on average (Polino et al. 2018, 4.2).

    Half of the points are shared out evenly, the others in proportion to the norms, in whole numbers by the largest
    remainders; each tensor gets 2 to 256.
    """
    share = np.asarray(norms, np.float64)
    share = share / share.sum() if share.sum() > 0 else np.full(len(share), 1 / len(share))
    wanted = points / 2 + share * len(share) * (points - points / 2)
    given = np.floor(wanted)
    for index in np.argsort(given - wanted, kind="stable")[: round(points * len(share) - given.sum())]:
        given[index] += 1
    return tuple(int(each) for each in np.clip(given, 2, _MAX_POINTS))
