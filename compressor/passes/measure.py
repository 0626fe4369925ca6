"""What the result costs and is worth, beside the teacher, in one run."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressor.core import (
    Artifact,
    Backend,
    Context,
    Latency,
    Measurement,
    Measurements,
    Metric,
    Model,
    Prospect,
    Result,
)

if TYPE_CHECKING:
    from compressor.core import Split

__all__ = ["Measure"]

_A_A = 0.02
"""What two sessions of the very same file were seen to differ by: no slowdown under this is told."""


@dataclass(frozen=True)
class Measure:
    """Accuracy on the evaluation samples, bytes, and interleaved latencies at batch 1.

    The teacher is timed as its fp32 ONNX export on the target's own runtime. ``blocks`` x
    ``inferences`` runs each, cut to about ``seconds``; ``samples`` > 0 judges on that many
    evaluation samples, drawn by the run's seed, instead of all.
    """

    blocks: int = 24
    inferences: int = 20
    threads: int | None = None
    """Those of the target where not given."""
    samples: int = 0
    seconds: float = 30.0

    kind: ClassVar[str] = "measure"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "engine"})
    gives: ClassVar[frozenset[str]] = frozenset({"measurements"})
    volatile: ClassVar[bool] = True
    collective: ClassVar[bool] = False

    def check(self, prospect: Prospect) -> tuple[str, ...]:
        threads = 1 if self.threads is None else self.threads
        if self.blocks < 5 or min(self.inferences, threads) < 1 or self.samples < 0 or self.seconds <= 0:
            return ("measure has a setting too low: give 5 blocks, 1 inference, 1 thread and some seconds, or more",)
        return ()

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor import catalog
        from compressor.bench.machine import fits, machine

        assert artifact.reference is not None
        assert artifact.engine is not None
        backend: Backend = catalog.find("backends", context.target.backend)()
        stranger = fits(context.target, machine())
        pairs = {
            "teacher": (artifact.teacher, artifact.reference.path, artifact.reference.sha256),
            "result": (artifact.result, artifact.engine.path, artifact.engine.sha256),
        }
        metrics = {
            name: self._metric(model, path, sha256, backend, stranger is not None, context)
            for name, (model, path, sha256) in pairs.items()
        }
        latencies: dict[str, Latency] = {}
        speedup, interval = None, None
        if stranger is None and artifact.engine.sha256 == artifact.reference.sha256:
            # The teacher's own export is the result: one file has one latency.
            alone, _, _ = self._latencies({"teacher": artifact.reference.path}, backend, artifact, context)
            latencies, speedup = dict.fromkeys(pairs, alone["teacher"]), 1.0
        elif stranger is None:
            latencies, speedup, interval = self._latencies(
                {name: path for name, (_, path, _) in pairs.items()}, backend, artifact, context
            )
        measured = {
            name: Measurement(model.params, model.macs, path.stat().st_size, metrics[name], latencies.get(name))
            for name, (model, path, _) in pairs.items()
        }
        warnings = []
        if interval is not None and interval[1] < 1 - _A_A:
            warnings.append(
                f"the result is slower than the teacher's fp32 export on this target ({speedup:.2f}x): "
                "--profile float may serve better"
            )
        measurements = Measurements(
            measured["teacher"],
            measured["result"],
            speedup,
            interval,
            why_no_metric=None if context.data else "no data was given",
            why_no_latency=stranger,
        )
        return Result(
            replace(artifact, measurements=measurements),
            {
                "teacher": metrics["teacher"].value if metrics["teacher"] else None,
                "result": metrics["result"].value if metrics["result"] else None,
                **self._crops(artifact, backend, context),
                "judged_in": "float" if stranger else f"{backend.name} kernels",
            },
            tuple(warnings),
        )

    def _metric(
        self, model: Model, path: Path, sha256: str, backend: Backend, stranger: bool, context: Context
    ) -> Metric | None:
        """The metric of one file. Kept: the same file, samples and runtime give the same figure.

        Where this machine is not the target, quantisation is evaluated exactly, in float: this CPU's
        8-bit kernels (which may saturate) are not the target's.
        """
        if context.data is None:
            return None
        split, task = self._judged(context), context.data.task

        def evaluate() -> dict[str, object]:
            from compressor import catalog

            session = backend.open(path, threads=len(os.sched_getaffinity(0)), exact=stranger)
            metric, _ = catalog.find("tasks", task)().evaluate(session, split, 100, context.progress)
            return asdict(metric)

        preparation = [model.input.shape, asdict(model.normalization)]
        key = [sha256, split.fingerprint, split.name, preparation, task, backend.name, backend.version(), stranger]
        return Metric(**context.memo("metric", key, evaluate))

    def _crops(self, artifact: Artifact, backend: Backend, context: Context) -> dict[str, object]:
        """Of networks that make images, also SSIM, and small crops of what both make, for the report."""
        from compressor import catalog

        if context.data is None or artifact.result.enlarges is None:
            return {}
        assert artifact.reference is not None
        assert artifact.engine is not None
        paths = {"teacher": artifact.reference.path, "result": artifact.engine.path}
        sessions = {name: backend.open(path, threads=len(os.sched_getaffinity(0))) for name, path in paths.items()}
        context.progress("crops for the report", 0, 1)
        return {"crops": catalog.find("tasks", context.data.task)().crops(sessions, self._judged(context))}

    def _judged(self, context: Context) -> Split:
        import numpy as np

        assert context.data is not None
        split = context.data.evaluate
        if not self.samples or self.samples >= len(split):
            return split
        drawn = np.random.default_rng(context.seed).choice(len(split), self.samples, replace=False)
        return split.take(np.sort(drawn))

    def _latencies(
        self, paths: dict[str, Path], backend: Backend, artifact: Artifact, context: Context
    ) -> tuple[dict[str, Latency], float, tuple[float, float]]:
        import numpy as np

        from compressor.bench.statistics import ratio, summarise
        from compressor.bench.timing import interleave

        threads = self.threads or context.target.threads
        batch = np.random.default_rng(context.seed).standard_normal((1, *artifact.teacher.input.shape), np.float32)
        sessions = {name: backend.open(path, threads=threads) for name, path in paths.items()}
        runners = {name: (lambda session=session: session(batch)) for name, session in sessions.items()}
        blocks = interleave(
            runners,
            blocks=self.blocks,
            inferences=self.inferences,
            seed=context.seed,
            seconds=self.seconds,
            progress=context.progress,
        )
        latencies = {name: summarise(samples, threads) for name, samples in blocks.items()}
        return latencies, *ratio(blocks["teacher"], blocks[next(reversed(blocks))], context.seed)
