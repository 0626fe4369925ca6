"""``compress bench``: what models take, side by side, and how sure that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor import catalog
from compressor.bench.machine import fits, machine_of
from compressor.bench.device import Place, TimingRun, here
from compressor.bench.self_test import SelfTest, self_test
from compressor.bench.cache import ResultCache
from compressor.bench.ssh import Board
from compressor.bench.statistics import ratio, summarise
from compressor.bench.bench_model import BenchModel, same_input
from compressor.bench.remote import there
from compressor.bench.timing import TimingConfig
from compressor.core import InputSpec, Json, Latency, Progress, UsageError

__all__ = ["Bench", "bench"]

SCHEMA_VERSION = 1

ROUNDS = TimingConfig(blocks=24, inferences=20)
"""480 samples: enough for a p99."""


@dataclass(frozen=True)
class Bench:
    """Which models are timed, and where: everything but how much."""

    candidate: BenchModel
    baseline: BenchModel | None
    threads: int
    board: Board | None
    shelf: ResultCache
    fresh: bool = False

    @classmethod
    def of(
        cls,
        path: Path,
        against: Path | None = None,
        *,
        input: InputSpec | None = None,
        threads: int | None = None,
        board: str | None = None,
        fresh: bool = False,
    ) -> Bench:
        """Read and judge the models; ``threads`` are the target's where not given, else one.

        Raises what `Subject.read` and `Board.parse` raise, UsageError where the models cannot be compared.
        """
        where = None if board is None else Board.parse(board)
        if fresh and where is None:
            raise UsageError("--fresh is for --board: here everything is measured anew", hint="leave --fresh out")
        if threads is not None and threads < 1:
            raise UsageError(f"--threads {threads} is no number of threads", hint="give 1 or more")
        candidate = BenchModel.read(path, input)
        baseline = None if against is None else BenchModel.read(against, input)
        same_input([each for each in (candidate, baseline) if each])
        return cls(candidate, baseline, threads or _threads(candidate), where, ResultCache.of_user(), fresh)

    @property
    def subjects(self) -> dict[str, BenchModel]:
        """The models by their part in it, the baseline first."""
        baseline = {} if self.baseline is None else {"baseline": self.baseline}
        return {**baseline, "candidate": self.candidate}

    @contextmanager
    def place(self, subjects: Mapping[str, BenchModel] | None = None) -> Iterator[Place]:
        """Where it is timed, with the models (or others) on it."""
        models = self.subjects if subjects is None else subjects
        if self.board is not None:
            with there(self.board, models, self.threads, shelf=self.shelf, fresh=self.fresh) as place:
                yield place
        else:
            with TemporaryDirectory(prefix="compressor-") as folder:
                residents = {name: model.resident(Path(folder)) for name, model in models.items()}
                with here(residents, self.threads) as place:
                    yield place

    def stranger(self, place: Place) -> str | None:
        """Why a latency of this place is not one of the bundles' own target; None where it is, or none is named."""
        found = machine_of(place.facts, place.state())
        for subject in self.subjects.values():
            name = subject.manifest.get("target")
            if name in catalog.toml_names("targets") and (why := fits(catalog.find_target(name), found)):
                return why
        return None

    def self_test(self, taken: TimingRun, facts: Mapping[str, Json], progress: Progress) -> SelfTest:
        """The A/A run of the device, on the candidate; kept from run to run."""
        twins = {"a": self.candidate, "b": self.candidate}
        return self_test(facts, taken.before, self.threads, lambda: self.place(twins), self.shelf, progress)


def bench(plan: Bench, progress: Progress, rounds: TimingConfig = ROUNDS) -> Json:
    """Time the models interleaved; the document that ``compress bench --json`` prints."""
    with plan.place() as place:
        facts, stranger = place.facts, plan.stranger(place)
        taken = place.take(rounds, progress)
    tested = plan.self_test(taken, facts, progress)
    return {
        "schema_version": SCHEMA_VERSION,
        **document(plan, taken, facts),
        "estimated": stranger is not None,
        "why_estimated": stranger,
        "self_test": dataclasses.asdict(tested),
        "self_test_detects": tested.detectable(len(taken.blocks["candidate"])),
    }


def document(plan: Bench, taken: TimingRun, facts: Mapping[str, Json]) -> dict[str, Json]:
    """What was timed, where, and what came of it: the part that bench and gate share."""
    speedup, interval = None, None
    if plan.baseline is not None:
        speedup, interval = ratio(taken.blocks["baseline"], taken.blocks["candidate"], seed=0)
    return {
        "models": {
            name: {
                "path": str(subject.path),
                "sha256": subject.sha256,
                "bytes": len(subject.content),
                "latency_ms": _figures(summarise(taken.blocks[name], taken.threads)),
            }
            for name, subject in plan.subjects.items()
        },
        "speedup": speedup,
        "speedup_interval": interval,
        "runtime": taken.runtime,
        "threads": taken.threads,
        "pinned": taken.pinned,
        "board": plan.board.url if plan.board else None,
        "cached": taken.cached,
        "device": dict(facts),
        "state": {
            "before": dict(taken.before),
            "after": dict(taken.after),
            "changed": taken.changed,
            "throttled": taken.throttled,
        },
        "samples_ms": dict(taken.blocks),
    }


def _figures(latency: Latency) -> Json:
    """Without the samples, which stand at the document's end."""
    return {name: getattr(latency, name) for name in ("median", "p90", "p99", "samples", "threads")}


def _threads(subject: BenchModel) -> int:
    name = subject.manifest.get("target")
    return catalog.find_target(name).threads if name in catalog.toml_names("targets") else 1
