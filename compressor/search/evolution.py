"""Evolution of architectures under budgets, by mutation alone (as Lin et al. 2021, algorithm 2)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from compressor.core import Progress
from compressor.models.common.family import Architecture
from compressor.search.ranking import blend

__all__ = ["Candidate", "Judge", "evolve", "front"]

_TRIES = 50
"""Mutations tried for each child that is wanted, before the space counts as used up."""


@dataclass(frozen=True)
class Candidate:
    """A student that obeys every budget, with its costs and scores."""

    architecture: Architecture
    params: int
    macs: int
    latency: float
    """The predicted latency as a share of the teacher's."""
    scores: Mapping[str, float]


Judge = Callable[[Sequence[Architecture]], Sequence[Candidate | None]]
"""Makes candidates with their costs and no scores; None for an architecture that breaks a budget."""

Scorer = Callable[[Sequence[Architecture]], Sequence[Mapping[str, float]]]

Step = Callable[[Architecture, random.Random], Architecture]
"""Makes another member of the space, one small step away."""


def evolve(
    seeds: Sequence[Architecture],
    judge: Judge,
    score: Scorer,
    *,
    step: Step,
    evaluations: int,
    population: int,
    children: int,
    seed: int,
    progress: Progress,
) -> list[Candidate]:
    """Score up to ``evaluations`` candidates and return all of them, in the order in which they were found.

    A generation has ``children`` mutants of the ``population`` best by the blended score so far. Only what passes
    ``judge`` is scored, and nothing is scored twice. The list is empty where not even mutants of ``seeds`` obey the
    budgets. The same seed gives the same candidates.
    """
    generator = random.Random(seed)  # noqa: S311 - nothing secret is drawn
    met: set[str] = set()
    found: list[Candidate] = []

    def admit(architectures: Sequence[Architecture]) -> None:
        allowed = [c for c in judge(architectures) if c is not None][: evaluations - len(found)]
        for candidate, scores in zip(allowed, score([c.architecture for c in allowed]), strict=True):
            found.append(replace(candidate, scores=scores))

    def fresh(parents: Sequence[Architecture], count: int, steps: int) -> list[Architecture]:
        born: list[Architecture] = []
        for _ in range(_TRIES * count):
            child = generator.choice(parents)
            for _ in range(generator.randint(1, steps)):
                child = step(child, generator)
            if (key := _key(child)) not in met:
                met.add(key)
                born.append(child)
            if len(born) == count:
                break
        return born

    met |= {_key(a) for a in seeds}
    admit(seeds)
    barren = 0
    while len(found) < evaluations and barren < 5:
        progress("search", len(found), evaluations)
        parents = best(found, population) if found else seeds
        before = len(found)
        # The first generations take more steps, because there are few seeds.
        born = fresh(parents, children, 6 if len(found) < population else 3)
        if not born:
            break
        admit(born)
        barren = barren + 1 if len(found) == before else 0
    return found


def best(candidates: Sequence[Candidate], count: int) -> list[Architecture]:
    """Return the ``count`` best by the blended score, the best first; of equals the one found first comes first."""
    return [candidates[i].architecture for i in order(candidates)[:count]]


def order(candidates: Sequence[Candidate]) -> list[int]:
    """Return the indices of candidates, the best blended score first."""
    blended = blend({name: [c.scores[name] for c in candidates] for name in candidates[0].scores})
    return sorted(range(len(candidates)), key=lambda i: (-blended[i], i))


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the Pareto front of blended score against latency, the best score first."""
    kept: list[Candidate] = []
    for index in order(candidates) if candidates else []:
        if not kept or candidates[index].latency < kept[-1].latency:
            kept.append(candidates[index])
    return kept


def _key(architecture: Architecture) -> str:
    return json.dumps(architecture.encode(), sort_keys=True)
