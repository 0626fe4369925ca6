"""What the result costs and is worth, beside the teacher, in one run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressor.core import (
    Artifact,
    Backend,
    Context,
    Inconclusive,
    Latency,
    Measurement,
    Measurements,
    Metric,
    Model,
    PlanContext,
    Result,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.core import Json, Split
    from compressor.machine import Judgement

    Outcomes = NDArray[np.generic]
    """One figure for each sample: of classification the label, of super-resolution dB."""

__all__ = ["Measure"]

_A_A = 0.02
"""What two sessions of the very same file were seen to differ by: no slowdown under this is told."""


@dataclass(frozen=True)
class _File:
    """A model file that is measured."""

    model: Model
    """The network that it is of."""
    path: Path
    sha256: str
    bytes: int
    """Its size; of an engine that of its graph."""


@dataclass(frozen=True)
class _Timing:
    """Latencies by the SHA-256 of the file, and the ratio of teacher to result."""

    latencies: Mapping[str, Latency]
    speedup: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None
    """Why they are estimates."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """Accuracy on the evaluation samples, bytes, and interleaved latencies at batch 1.

    The teacher is timed as its fp32 ONNX export on the target's own runtime, here or on the run's board. ``blocks`` x
    ``inferences`` runs each, cut to about ``seconds``; ``samples`` > 0 judges on that many
    evaluation samples, drawn by the run's seed, instead of all. Where ``between`` is set the graphs on the way
    are measured too, in the same turns: what each pass bought and cost.
    """

    blocks: int = 24
    inferences: int = 20
    threads: int | None = None
    """Those of the target where not given."""
    samples: int = 0
    seconds: float = 30.0
    between: bool = True

    kind: ClassVar[str] = "measure"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "onnx", "engine"})
    produces: ClassVar[frozenset[str]] = frozenset({"measurements"})
    volatile: ClassVar[bool] = True
    collective: ClassVar[bool] = False

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        threads = 1 if self.threads is None else self.threads
        if self.blocks < 5 or min(self.inferences, threads) < 1 or self.samples < 0 or self.seconds <= 0:
            return ("measure has a setting too low: give 5 blocks, 1 inference, 1 thread and some seconds, or more",)
        return ()

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor import catalog
        from compressor.machine import judgement

        assert artifact.reference is not None
        backend: Backend = catalog.find("backends", context.target.backend)()
        judge = judgement(context.target, backend)
        files = self._files(artifact, judge)
        judged = {name: self._judge(file, judge, artifact.reference.path, context) for name, file in files.items()}
        timing = self._timing(files, judge, backend, artifact, context)
        measured = {
            name: Measurement(
                file.model.params,
                file.model.macs,
                file.bytes,
                each[0] if (each := judged[name]) else None,
                timing.latencies.get(file.sha256),
                None if judge.exact else backend.memory(file.path),
            )
            for name, file in files.items()
        }
        before, last = (artifact.stages[:-1], artifact.stages[-1:]) if self.between else ((), ())
        stages = [replace(stage, measured=measured[str(i)]) for i, stage in enumerate(before)]
        stages += [replace(stage, measured=measured["result"]) for stage in last]
        measurements = Measurements(
            measured["teacher"],
            measured["result"],
            timing.speedup,
            timing.interval,
            why_no_metric=None if context.data else "no data was given",
            why_no_latency=timing.reason,
            stages=tuple(stages),
            samples=self._samples(files, judged, judge, context),
        )
        metrics: dict[str, Json] = {
            name: asdict(metric) if (metric := measured[name].metric) else None for name in ("teacher", "result")
        }
        metrics |= {"judged_in": judge.words} | ({"timed_on": context.board} if context.board else {})
        return Result(replace(artifact, measurements=measurements), metrics, timing.warnings)

    def _files(self, artifact: Artifact, judge: Judgement) -> dict[str, _File]:
        """What is measured, by name: ``teacher``, ``result``, and with ``between`` the graphs on the way by number."""
        assert artifact.reference is not None
        assert artifact.onnx is not None
        assert artifact.engine is not None
        teacher, graph = artifact.reference, artifact.onnx
        loaded = graph if judge.exact else artifact.engine
        files = {
            "teacher": _File(artifact.teacher, teacher.path, teacher.sha256, teacher.path.stat().st_size),
            "result": _File(artifact.result, loaded.path, loaded.sha256, graph.path.stat().st_size),
        }
        for number, stage in enumerate(artifact.stages[:-1] if self.between else ()):
            path = stage.onnx.path
            files[str(number)] = _File(stage.model, path, stage.onnx.sha256, path.stat().st_size)
        return files

    def _timing(
        self, files: Mapping[str, _File], judge: Judgement, backend: Backend, artifact: Artifact, context: Context
    ) -> _Timing:
        """Latencies, measured where they count as the target's, else estimated."""
        paths = {file.sha256: file.path for file in files.values()}  # one file has one latency
        if not (judge.times_count or context.board is not None):
            return _Timing(_estimated(paths, artifact, context), reason=judge.reason)
        ends = (files["teacher"].sha256, files["result"].sha256)
        latencies, speedup, interval = self._latencies(paths, ends, backend, artifact, context)
        warnings: tuple[str, ...] = ()
        if interval is not None and interval[1] < 1 - _A_A:
            warnings = (
                f"the result is slower than the teacher's fp32 export on this target ({speedup:.2f}x): "
                "--profile float may serve better",
            )
        return _Timing(latencies, speedup, interval, warnings=warnings)

    def _judge(self, file: _File, judge: Judgement, teacher: Path, context: Context) -> tuple[Metric, Outcomes] | None:
        """The metric of one file, and its outcome for every sample: the same file, samples and runtime give the same.

        Where this machine is not the target, quantisation is evaluated exactly, in float: this CPU's
        8-bit kernels (which may saturate) are not the target's.
        """
        import numpy as np

        from compressor.feeds import judged_at_once

        if context.data is None:
            return None
        split, task = self._judged(context), context.task
        batch = judged_at_once(file.model.signature, file.model.sizes)

        def evaluate() -> dict[str, object]:
            threads = len(os.sched_getaffinity(0))
            session = judge.open(file.path, threads=threads)
            reference = None if file.path == teacher else judge.open(teacher, threads=threads)
            metric, outcomes = task.evaluate(session, split, batch, context.progress, reference)
            return {"metric": asdict(metric), "outcomes": outcomes.tolist()}

        scaling = file.model.normalization
        preparation = [file.model.feed_shapes, None if scaling is None else asdict(scaling)]
        runtime = [judge.backend.name, judge.backend.version(), judge.exact]
        key = [file.sha256, split.fingerprint, split.name, preparation, task.kind, dict(task.facts), *runtime]
        kept = context.memo("judged", key, evaluate)
        return Metric(**kept["metric"]), np.asarray(kept["outcomes"])

    def _samples(
        self,
        files: Mapping[str, _File],
        judged: Mapping[str, tuple[Metric, Outcomes] | None],
        judge: Judgement,
        context: Context,
    ) -> Json:
        """Single samples for the report, as the task tells them; kept like the metrics."""
        teacher, result = judged["teacher"], judged["result"]
        if context.data is None or teacher is None or result is None:
            return None
        data, split = context.data, self._judged(context)
        outcomes = {"teacher": teacher[1], "result": result[1]}

        def show() -> Json:
            context.progress("look at samples", 0, 1)
            sessions = {name: judge.open(files[name].path, threads=1) for name in outcomes}
            return context.task.samples(split, data.classes, outcomes, sessions, context.seed)

        key = [[files[name].sha256 for name in outcomes], teacher[0].fingerprint, split.name, context.seed, judge.exact]
        return context.memo("samples", key, show)

    def _judged(self, context: Context) -> Split:
        import numpy as np

        assert context.data is not None
        split = context.data.evaluate
        if not self.samples or self.samples >= len(split):
            return split
        drawn = np.random.default_rng(context.seed).choice(len(split), self.samples, replace=False)
        return split.take(np.sort(drawn))

    def _latencies(
        self,
        paths: Mapping[str, Path],
        ends: tuple[str, str],
        backend: Backend,
        artifact: Artifact,
        context: Context,
    ) -> tuple[dict[str, Latency], float, tuple[float, float] | None]:
        """Time each of ``paths``; also the ratio of ``ends``, teacher and result, and its interval."""
        from compressor.bench.device import LoadedModel, here
        from compressor.bench.statistics import ratio, summarise
        from compressor.bench.timing import TimingConfig
        from compressor.feeds import random_feeds

        threads = self.threads or context.target.threads
        config = TimingConfig(self.blocks, self.inferences, context.seed, self.seconds)
        if context.board is not None:
            from compressor.bench.bench_model import BenchModel
            from compressor.bench.cache import ResultCache
            from compressor.bench.remote import remote
            from compressor.bench.ssh import Board

            models = {name: BenchModel.read_graph(path, artifact.teacher.sizes) for name, path in paths.items()}
            opened = remote(Board.parse(context.board), models, threads, cache=ResultCache.of_user(), fresh=True)
        else:
            feeds = random_feeds(artifact.teacher.signature, artifact.teacher.sizes, None, context.seed)
            opened = here({name: LoadedModel(path, backend.name, feeds) for name, path in paths.items()}, threads)
        with opened as device:
            timed = device.take(config, context.progress)
        if timed.changed:
            raise Inconclusive(
                f"what was timed is invalid: {'; '.join(timed.changed)}",
                hint="leave mode, governor and runtime of a real device as they are; "
                "the same command goes on from there",
            )
        blocks = timed.blocks
        latencies = {name: summarise(samples, threads) for name, samples in blocks.items()}
        if ends[0] == ends[1]:
            return latencies, 1.0, None  # the teacher's own export is the result
        return latencies, *ratio(blocks[ends[0]], blocks[ends[1]], context.seed)


def _estimated(paths: dict[str, Path], artifact: Artifact, context: Context) -> dict[str, Latency]:
    """Rooflines of the target, where it says what its chip can do."""
    import onnx

    from compressor.bench.estimate import estimate

    shapes = artifact.teacher.feed_shapes
    found = {name: estimate(onnx.load(str(path)), shapes, context.target) for name, path in paths.items()}
    return {name: latency for name, latency in found.items() if latency is not None}
