"""Post-training INT8 that keeps its accuracy and is no slower than float."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from compressor.core import Metric, Model, OnnxModel, Progress, QdqRules, Session, Split, Task
from compressor.feeds import judged_at_once, run_in_batches
from compressor.figures import drop
from compressor.lowering.fp16 import fp16_twin
from compressor.lowering.lower import finish_quantized
from compressor.lowering.placement import Placement
from compressor.quant.audit import audit
from compressor.quant.corrections import Base, corrected, named, with_learned_rounding
from compressor.quant.precision_search import PrecisionChoice, PrecisionSearch
from compressor.store import file_sha256

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs
    from compressor.machine import Judgement

__all__ = ["PostTraining", "PostTrainingResult"]

_MARGIN, _MARGIN_OF = 0.2, 5.0
"""The part of the allowance (of at most so much of it) that is kept for other samples, which lose a little more."""
_JUDGED, _JUDGED_MACS = (8, 2000), 40_000_000_000
"""The least and the most training samples that a metric is taken on, and about what they may cost."""
_MEASURED, _ESTIMATED = 1.03, 1.0
"""The least speed-up over float: of a measurement so much that another one will not find integers slower."""
_AMPLE = 1.15
"""A measured speed-up of all in integers that is taken as it is: choices by the clock may differ next time."""
_FOR_CORRECTIONS, _FOR_ROUNDING = 0.2, 0.1
"""The part of the minutes after which no further correction is tried, and that in which rounding is learned."""
_COMPARED = 4
"""Calibration batches on which regions are compared."""


@dataclass(frozen=True)
class PostTrainingResult:
    """The file that ships, in integers or in float, and how it was chosen."""

    onnx: OnnxModel
    choice: PrecisionChoice
    tensors: int
    """How many tensors are quantised."""
    correction: str | None
    """The name of the correction that was made to the float graph; None: none."""
    gain: str | None
    """What that gained, in a sentence."""


@dataclass(frozen=True)
class PostTraining:
    """Quantise a float graph by its ranges; where accuracy or time asks for it, leave operations in float.

    See `PrecisionSearch` for how they are chosen.
    """

    source: OnnxModel
    """The float32 graph."""
    rounded: OnnxModel
    """The same with its weights on their grids, where their rounding was learned; else ``source``."""
    model: Model
    task: Task
    rules: QdqRules
    judge: Judgement
    ranges: Mapping[str, tuple[float, float]]
    """The range of every tensor that may be quantised."""
    batches: Sequence[Feeds]
    train: Split
    evaluate: Split | None
    """Samples that confirm a choice; nothing is fitted to them. None: there are none."""
    allowed: float | None
    """The drop of the metric that is allowed; None: the task's own."""
    speedups: Callable[[Path, Sequence[Path]], list[float | None]] | None
    """How many times as fast as the first file each other is; None: what ships may be slower than float."""
    minutes: float
    seed: int
    workdir: Path
    progress: Progress

    def run(self) -> PostTrainingResult:
        """Search, and write ``model.onnx`` into ``workdir``; the float graph ships as it is where that is chosen."""
        started = time.monotonic()
        base, reason = self._base()
        search = PrecisionSearch(
            graph=ir.load(base.source.path),
            integer_ops=Placement(ir.load(base.source.path), self.rules).integer_ops,
            macs=self._macs,
            make=partial(self._make, base),
            drop=self._drop,
            elsewhere=self._elsewhere,
            parity=self._parity,
            speedups=self._speedups,
            allowed=self._allowed,
            least_speedup=self._least_speedup,
            ample_speedup=_AMPLE if self.judge.times_count else 0.0,
            workdir=self.workdir,
            seconds=60 * self.minutes - (time.monotonic() - started),
            progress=self.progress,
        )
        try:
            choice = search.run()
        finally:
            for trial in self.workdir.glob("trial*.onnx"):
                trial.unlink()
        told = reason if choice.floats is not None else None
        return self._written(base, choice, told)

    def with_floats(self, names: Sequence[str], correction: str | None) -> PostTrainingResult:
        """Write what was chosen before: the nodes ``names`` in float (``*``: all), and that ``correction``."""
        choice = PrecisionChoice(None if "*" in names else frozenset(names), None, ())
        base = self._plain
        if correction is not None:
            start = replace(base, source=self.source)
            base = named(correction, start, self.rules, self.batches, self.workdir, self.progress)
        return self._written(base, choice, None)

    def _written(self, base: Base, choice: PrecisionChoice, correction: str | None) -> PostTrainingResult:
        if choice.floats is None:
            return PostTrainingResult(self._float_twin, choice, 0, None, None)
        graph = ir.load(base.source.path)
        placement = Placement(graph, self.rules, choice.floats)
        tensors = placement.tensors
        placement.apply(base.ranges, means=base.means)
        made, _ = finish_quantized(graph, self.rules, self.workdir / "model.onnx", base.source, packable=False)
        name = None if base is self._plain else base.name
        return PostTrainingResult(made, choice, len(tensors), name, correction)

    # -- graphs -----------------------------------------------------------------------------------

    @cached_property
    def _plain(self) -> Base:
        return Base("as it is", self.rounded, self.ranges)

    def _base(self) -> tuple[Base, str | None]:
        """The graph that is quantised: as it is where all in integers keeps the allowance, else the best correction.

        With it what the correction gained, in a sentence.
        """
        started = time.monotonic()
        best, least = self._plain, self._lost(self._plain)
        first, allowed = least, self._allowed
        if least <= allowed or not all(spec.shape for spec in self.model.signature.inputs):
            return best, None
        for base in corrected(self.source, self.rules, self.batches, self.workdir, self.progress):
            best, least = min((best, least), (base, self._lost(base)), key=lambda each: each[1])
            if least <= allowed or time.monotonic() - started > _FOR_CORRECTIONS * 60 * self.minutes:
                break
        if least > allowed and (learned := self._learned(best)) is not None:
            best, least = min((best, least), (learned, self._lost(learned)), key=lambda each: each[1])
        told = None if best is self._plain else f"{best.name}: all in integers loses {least:.3g}, without {first:.3g}"
        return best, told

    def _learned(self, base: Base) -> Base | None:
        """``base`` with the rounding of its weights learned; None where that cannot be, or was done before."""
        if base is self._plain and self.rounded is not self.source:
            return None
        minutes = _FOR_ROUNDING * self.minutes
        return with_learned_rounding(base, self.rules, self.batches, minutes, self.workdir, self.progress)

    def _lost(self, base: Base) -> float:
        path = self.workdir / "trial.onnx"
        self._make(base, frozenset(), path)
        return self._drop(path)

    def _make(self, base: Base, floats: frozenset[str], path: Path) -> None:
        graph = ir.load(base.source.path)
        Placement(graph, self.rules, floats).apply(base.ranges, means=base.means)
        finish_quantized(graph, self.rules, path, None, packable=False)

    @cached_property
    def _float_twin(self) -> OnnxModel:
        """What would ship in float: FP16 where the target's other operations are, else the graph itself."""
        if self.rules.float_dtype != "float16":
            return self.source
        return fp16_twin(self.source, self.workdir / "float.onnx")

    @cached_property
    def _macs(self) -> dict[str, int]:
        layers = audit(onnx.load(str(self.source.path)), self.model.feed_shapes).layers
        return {layer.node: layer.macs for layer in layers}

    # -- accuracy ---------------------------------------------------------------------------------

    @cached_property
    def _judged(self) -> _Judged:
        """Training samples that the metric is taken on."""
        return self._judged_on(self.train)

    @cached_property
    def _confirming(self) -> _Judged | None:
        """Evaluation samples that a choice is confirmed on."""
        return None if self.evaluate is None else self._judged_on(self.evaluate)

    def _judged_on(self, split: Split) -> _Judged:
        """As many of the samples as the network's cost allows, with the float network's metric on them."""
        least, most = _JUDGED
        cost = max(1, self.model.macs)
        count = min(len(split), max(least, min(most, _JUDGED_MACS // cost)))
        drawn = np.random.default_rng([self.seed, 1]).choice(len(split), count, replace=False)
        part = split.take(np.sort(drawn))
        before, _ = self.task.evaluate(self._reference, part, self._batch, self.progress, None)
        return _Judged(part, before, self.task.allowance(before) if self.allowed is None else self.allowed)

    @cached_property
    def _batch(self) -> int:
        return judged_at_once(self.model.signature, self.model.sizes)

    @cached_property
    def _reference(self) -> Session:
        return self._open(self.source.path)

    @cached_property
    def _allowed(self) -> float:
        """The drop that is allowed on the training samples."""
        allowance = self._judged.allowance
        return allowance - _MARGIN * min(max(0.0, allowance), _MARGIN_OF)

    def _elsewhere(self, path: Path) -> tuple[float, float]:
        """How much a file loses on evaluation samples, and how much is allowed there."""
        if self._confirming is None:
            return 0.0, 0.0
        return self._computed_drop(path, self._confirming), self._confirming.allowance

    def _drop(self, path: Path) -> float:
        """How much of the metric a file loses; of the same graph it is computed once."""
        key = file_sha256(path)
        if key not in self._drops:
            self._drops[key] = self._computed_drop(path, self._judged)
        return self._drops[key]

    @cached_property
    def _drops(self) -> dict[str, float]:
        return {}

    def _computed_drop(self, path: Path, on: _Judged) -> float:
        after, _ = self.task.evaluate(self._open(path), on.split, self._batch, self.progress, self._reference)
        before = on.before
        return drop(before.value, after.value, before.unit, higher_is_better=before.higher_is_better)

    def _parity(self, path: Path) -> float:
        session = self._open(path)
        worst = float("inf")
        for feeds, expected in zip(self.batches, self._expected, strict=False):
            got = run_in_batches(session, feeds, len(next(iter(feeds.values()))))
            worst = min(worst, *(each.db for each in self.task.parity(expected, got).values()))
        return worst

    @cached_property
    def _expected(self) -> list[Outputs]:
        parts = self.batches[:_COMPARED]
        return [run_in_batches(self._reference, feeds, len(next(iter(feeds.values())))) for feeds in parts]

    def _open(self, path: Path) -> Session:
        return self.judge.open(path, threads=len(os.sched_getaffinity(0)))

    @property
    def _least_speedup(self) -> float | None:
        if self.speedups is None:
            return None
        return _MEASURED if self.judge.times_count else _ESTIMATED

    def _speedups(self, paths: Sequence[Path]) -> list[float | None]:
        if not paths or self.speedups is None:
            return [None] * len(paths)
        return self.speedups(self._float_twin.path, paths)


@dataclass(frozen=True)
class _Judged:
    """Samples, the float network's metric on them, and how much of it may be lost."""

    split: Split
    before: Metric
    allowance: float
