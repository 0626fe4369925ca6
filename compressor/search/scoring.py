"""Scores of many candidates, computed in several processes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compressor import catalog
from compressor.core import InputSpec, Progress
from compressor.models.common.family import Buildable
from compressor.scores.common.probe import Batch, Probe, Score, View, gaussian

__all__ = ["Scoring", "applicable", "seeds_of", "teacher_view"]

_CHUNK = 4
"""Candidates that a process takes at a time: few, so that no process is left with a long rest at the end."""


@dataclass(frozen=True, eq=False)
class Scoring:
    """All that a candidate's scores depend on, besides the candidate."""

    names: tuple[str, ...]
    """The scores: names of files of ``scores/``."""
    input: InputSpec
    batch: Batch
    teacher: View | None
    seeds: tuple[int, ...]
    """The seeds of each candidate's random initialisations."""
    processes: int = 1

    def __call__(self, candidates: Sequence[Buildable], progress: Progress | None = None) -> list[dict[str, float]]:
        """Return the scores of each candidate by name. They do not depend on the number of processes."""
        from joblib import Parallel, delayed

        chunks = [tuple(candidates[i : i + _CHUNK]) for i in range(0, len(candidates), _CHUNK)]
        # Loky starts clean interpreters: a fork would inherit torch's threads, a spawn run the caller's script again.
        workers = Parallel(n_jobs=min(self.processes, len(chunks)) or 1, backend="loky", return_as="generator")
        scored: list[dict[str, float]] = []
        with warnings.catch_warnings():
            # Loky replaces a worker whose memory has grown, and sends its job again: no reason to warn.
            warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
            for part in workers(delayed(_score)(self, chunk) for chunk in chunks):
                scored += part
                if progress is not None:
                    progress("score", len(scored), len(candidates))
        return scored

    def one(self, candidate: Buildable) -> dict[str, float]:
        """Return the scores of one candidate by name."""
        probe = Probe(candidate, self.input, self.batch, self.teacher, self.seeds)
        return {name: catalog.find("scores", name)()(probe) for name in self.names}


def _score(scoring: Scoring, candidates: Sequence[Buildable]) -> list[dict[str, float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processes run in parallel, and one thread always sums in the same order
    try:
        return [scoring.one(each) for each in candidates]
    finally:
        torch.set_num_threads(threads)


def teacher_view(network: nn.Module, batch: Batch, seed: int) -> View | None:
    """Return the teacher's view with Gaussian weights, as DisWOT compares with it (section 4). Changes ``network``.

    With trained weights students were ranked worse. None where it cannot be told which of the network's tensors is its
    last feature map.
    """
    return View.of(gaussian(network, seed), batch.images)


def applicable(
    names: Sequence[str], teacher: View | None, *, images: bool = False, labels: bool = True
) -> tuple[str, ...]:
    """Return the scores that can be computed: without a ``teacher``, for networks that make ``images``, and so on."""

    def can_be_computed(score: Score) -> bool:
        return (
            (teacher is not None or not score.needs_teacher)
            and (not images or getattr(score, "for_images", True))
            and (labels or not getattr(score, "needs_labels", False))
        )

    return tuple(name for name in names if can_be_computed(catalog.find("scores", name)))


def seeds_of(seed: int, inits: int) -> tuple[int, ...]:
    """Return the seeds of the initialisations. Two runs with different seeds share none."""
    return tuple(range(seed * inits, (seed + 1) * inits))
