"""Scoring many candidates, in several processes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compressor import catalog
from compressor.core import InputSpec, Progress
from compressor.models.common.family import Architecture
from compressor.scores.common.probe import Batch, Probe, View, gaussian

__all__ = ["Scoring", "applicable", "seeds_of", "teacher_view"]

_CHUNK = 4
"""Candidates that a process takes at a time: few, so that the last ones do not wait for one."""


@dataclass(frozen=True, eq=False)
class Scoring:
    """Everything that a candidate's scores depend on besides the candidate."""

    names: tuple[str, ...]
    """Files of ``scores/``."""
    input: InputSpec
    batch: Batch
    teacher: View | None
    seeds: tuple[int, ...]
    """Random initialisations of each candidate."""
    processes: int = 1

    def __call__(
        self, architectures: Sequence[Architecture], progress: Progress | None = None
    ) -> list[dict[str, float]]:
        """The scores of each candidate by name. The number of processes does not change them."""
        from joblib import Parallel, delayed

        chunks = [tuple(architectures[i : i + _CHUNK]) for i in range(0, len(architectures), _CHUNK)]
        # loky starts clean interpreters: a fork would inherit torch's threads, a spawn run the caller's script again.
        workers = Parallel(n_jobs=min(self.processes, len(chunks)) or 1, backend="loky", return_as="generator")
        scored: list[dict[str, float]] = []
        with warnings.catch_warnings():
            # Loky replaces a worker that has grown, as torch's do, and sends its job again: nothing to tell.
            warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
            for part in workers(delayed(_score)(self, chunk) for chunk in chunks):
                scored += part
                if progress is not None:
                    progress("score", len(scored), len(architectures))
        return scored

    def one(self, architecture: Architecture) -> dict[str, float]:
        """The scores of one candidate."""
        probe = Probe(architecture, self.input, self.batch, self.teacher, self.seeds)
        return {name: catalog.find("scores", name)()(probe) for name in self.names}


def _score(scoring: Scoring, architectures: Sequence[Architecture]) -> list[dict[str, float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the processes are the parallelism, and one thread always sums in the same order
    try:
        return [scoring.one(architecture) for architecture in architectures]
    finally:
        torch.set_num_threads(threads)


def teacher_view(network: nn.Module, batch: Batch, seed: int) -> View | None:
    """The teacher as DisWOT sees it: of its architecture, with random weights (section 4).

    Trained weights are not used: on the development truth they ranked students worse. None where an
    architecture of no known family does not show which of its tensors is which.
    """
    network = gaussian(network, seed)
    return View.of(network, batch.images) if hasattr(network, "stages") else View.guessed(network, batch.images)


def applicable(names: Sequence[str], teacher: View | None, *, images: bool = False) -> tuple[str, ...]:
    """Those of the scores that can be had: without a teacher, those that need none; of ``images``, those for them."""
    found = {n: catalog.find("scores", n) for n in names}
    return tuple(
        n
        for n, score in found.items()
        if (teacher is not None or not score.needs_teacher) and not (images and not getattr(score, "for_images", True))
    )


def seeds_of(seed: int, inits: int) -> tuple[int, ...]:
    """Seeds of the initialisations: no two runs with different seeds share one."""
    return tuple(range(seed * inits, (seed + 1) * inits))
