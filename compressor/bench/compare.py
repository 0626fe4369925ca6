"""``compress bench``: the latencies of models side by side, and the smallest change that the device resolves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor.bench.bench_model import BenchModel, require_same_inputs
from compressor.bench.cache import ResultCache
from compressor.bench.device import Device, TimingRun, here
from compressor.bench.remote import remote
from compressor.bench.self_test import SelfTest, self_test
from compressor.bench.ssh import Board
from compressor.bench.statistics import ratio, summarise
from compressor.bench.timing import TimingConfig
from compressor.core import GivenInput, Json, Latency, Progress, UsageError
from compressor.machine import known_target, machine_of, target_mismatch

__all__ = ["Bench", "bench"]

SCHEMA_VERSION = 1

_CONFIG = TimingConfig(blocks=24, inferences=20)
"""480 samples: enough for a p99."""


@dataclass(frozen=True)
class Bench:
    """Which models are timed, and on which device: everything but how much."""

    candidate: BenchModel
    baseline: BenchModel | None
    threads: int
    board: Board | None
    """None: this machine."""
    cache: ResultCache
    fresh: bool = False

    @classmethod
    def of(
        cls,
        path: Path,
        against: Path | None = None,
        *,
        inputs: tuple[GivenInput, ...] = (),
        threads: int | None = None,
        board: str | None = None,
        fresh: bool = False,
    ) -> Bench:
        """Read and judge the models; ``threads`` are the target's where not given, else one.

        Raises what `BenchModel.read` and `Board.parse` raise, UsageError where the models cannot be compared.
        """
        where = None if board is None else Board.parse(board)
        if fresh and where is None:
            raise UsageError("--fresh is for --board: here everything is measured anew", hint="leave --fresh out")
        if threads is not None and threads < 1:
            raise UsageError(f"--threads {threads} is no number of threads", hint="give 1 or more")
        candidate = BenchModel.read(path, inputs)
        baseline = None if against is None else BenchModel.read(against, inputs)
        require_same_inputs([each for each in (candidate, baseline) if each])
        return cls(candidate, baseline, threads or _threads(candidate), where, ResultCache.of_user(), fresh)

    @property
    def models(self) -> dict[str, BenchModel]:
        """The models by their part in it, the baseline first."""
        baseline = {} if self.baseline is None else {"baseline": self.baseline}
        return {**baseline, "candidate": self.candidate}

    @contextmanager
    def device(self, models: Mapping[str, BenchModel] | None = None) -> Iterator[Device]:
        """Open the device with the models (or others) on it."""
        chosen = self.models if models is None else models
        if self.board is not None:
            with remote(self.board, chosen, self.threads, cache=self.cache, fresh=self.fresh) as device:
                yield device
        else:
            with TemporaryDirectory(prefix="compressor-") as folder:
                loaded = {name: model.loaded(Path(folder)) for name, model in chosen.items()}
                with here(loaded, self.threads) as device:
                    yield device

    def target_mismatch(self, device: Device) -> str | None:
        """Return why a latency of this device is not one of the bundles' own target; None where it is."""
        found = machine_of(device.facts, device.state())
        for model in self.models.values():
            target = known_target(model.manifest.target)
            if target is not None and (why := target_mismatch(target, found)):
                return why
        return None

    def self_test(self, run: TimingRun, facts: Mapping[str, Json], progress: Progress) -> SelfTest:
        """Return the A/A run of the device, on the candidate; it is cached from run to run."""
        twins = {"a": self.candidate, "b": self.candidate}
        return self_test(facts, run.before, self.threads, lambda: self.device(twins), self.cache, progress)


def bench(plan: Bench, progress: Progress, config: TimingConfig = _CONFIG) -> Json:
    """Time the models interleaved; return the document that ``compress bench --json`` prints."""
    with plan.device() as device:
        facts, mismatch = device.facts, plan.target_mismatch(device)
        run = device.take(config, progress)
    tested = plan.self_test(run, facts, progress)
    return {
        "schema_version": SCHEMA_VERSION,
        **document(plan, run, facts),
        "estimated": mismatch is not None,
        "why_estimated": mismatch,
        "self_test": dataclasses.asdict(tested),
        "self_test_detects": tested.detectable(len(run.blocks["candidate"])),
    }


def document(plan: Bench, run: TimingRun, facts: Mapping[str, Json]) -> dict[str, Json]:
    """Return what was timed, on which device, and the figures: the part that bench and gate share."""
    speedup, interval = None, None
    if plan.baseline is not None:
        speedup, interval = ratio(run.blocks["baseline"], run.blocks["candidate"], seed=0)
    return {
        "models": {
            name: {
                "path": str(model.path),
                "sha256": model.sha256,
                "bytes": len(model.content),
                "latency_ms": _figures(summarise(run.blocks[name], run.threads)),
            }
            for name, model in plan.models.items()
        },
        "speedup": speedup,
        "speedup_interval": interval,
        "runtime": run.runtime,
        "threads": run.threads,
        "pinned": run.pinned,
        "board": plan.board.url if plan.board else None,
        "cached": run.cached,
        "device": dict(facts),
        "state": {
            "before": dict(run.before),
            "after": dict(run.after),
            "changed": run.changed,
            "throttled": run.throttled,
        },
        "samples_ms": dict(run.blocks),
    }


def _figures(latency: Latency) -> Json:
    """Return the figures without the samples, which stand at the document's end."""
    return {name: getattr(latency, name) for name in ("median", "p90", "p99", "samples", "threads")}


def _threads(model: BenchModel) -> int:
    target = known_target(model.manifest.target)
    return 1 if target is None else target.threads
