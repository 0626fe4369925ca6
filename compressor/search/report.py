"""The candidates of a search as ``report.json`` shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from compressor.core import Json
from compressor.models.common.headed import family_of
from compressor.search.evolution import Candidate
from compressor.search.ranking import blend

__all__ = ["Ranking"]

_SHOWN = 500
"""Candidates that a report shows in its chart, at most."""


@dataclass(frozen=True)
class Ranking:
    """All candidates, the best first, and the blended score of each."""

    candidates: tuple[Candidate, ...]
    scores: tuple[float, ...]

    @classmethod
    def of(cls, ranked: Sequence[Candidate]) -> Self:
        """Blend the scores of candidates that are in order already."""
        blended = blend({name: [c.scores[name] for c in ranked] for name in ranked[0].scores})
        return cls(tuple(ranked), tuple(round(float(score), 4) for score in blended))

    def row(self, candidate: Candidate) -> dict[str, Json]:
        """Return the family, encoding, place, score, counts and predicted latency of one of the candidates."""
        index = self.candidates.index(candidate)
        return {
            "space": family_of(candidate.architecture),
            "student": json.dumps(candidate.architecture.encode()),
            "rank": 1 + index,
            "score": self.scores[index],
            "params": candidate.params,
            "macs": candidate.macs,
            "latency_share_predicted": candidate.latency,
        }

    def points(self) -> list[list[float]]:
        """Return the predicted latency and the score of each candidate, the best first.

        Where there are more than 500, as many are taken evenly from the best to the worst.
        """
        step = max(1.0, len(self.candidates) / _SHOWN)
        indices = [int(step * i) for i in range(min(len(self.candidates), _SHOWN))]
        return [[round(self.candidates[i].latency, 5), self.scores[i]] for i in indices]
