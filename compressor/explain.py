"""What the precision of each part of a network costs and buys, after a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from compressor import catalog
from compressor.bench.speedups import quick_speedups
from compressor.bundle import Manifest, bundle_folder, golden_samples, verify_bundle
from compressor.core import Backend, Json, OnnxModel, Progress, QdqRules, Session, Target, UsageError
from compressor.feeds import count_samples, one_run, run_in_batches
from compressor.lowering.fp16 import fp16_twin
from compressor.lowering.lower import finish_quantized
from compressor.lowering.placement import Placement
from compressor.machine import Judgement, judgement
from compressor.quant.audit import audit
from compressor.quant.float_layers import float_candidates
from compressor.quant.ranges import activation_ranges
from compressor.quant.regions import regions
from compressor.report.reading import read_report
from compressor.store import Store
from compressor.tasks import agreement_task

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["explain"]

_WORTH = 0.005
"""The share of the latency under which a change is none."""
_REGIONS = 24
"""Regions that are tried one by one: each costs a graph, a session and some seconds."""


def explain(run: Path, progress: Progress) -> dict[str, Json]:
    """Tell which layers of a run's network ship in which precision, why, and what the other one would cost or buy.

    Each region, one or some layers, is put into its other precision in turn, the rest as it ships: the change of the
    worst output's SNR on the bundle's samples, and the change of the latency, measured where this machine is the
    target, else estimated. Raises UsageError where ``run`` is no run's folder, or was made for a target that runs no
    integers.
    """
    folder = run if (run / "report.json").is_file() or not (run / "manifest.json").is_file() else run.parent
    report = read_report(folder)
    target = catalog.find_target(report["target"])
    if "int8" not in target.precisions:
        raise UsageError(
            f"target {target.name} does not run int8: there is no other precision to explain",
            hint="compress targets lists what each target runs",
        )
    whole: Mapping[str, Json] = {"in_float": ["*"]}  # a run without a quantize pass
    quantised = next((p["metrics"] for p in report["passes"] if p["kind"] == "quantize"), whole)
    left = quantised.get("in_float", ())
    with TemporaryDirectory() as scratch:
        toggles = _Toggles(folder, target, tuple(left), Path(scratch), progress)
        rows = toggles.rows()
    return {
        "run": str(folder),
        "target": target.name,
        "precision": report["result"]["precision"],
        "why_estimated": toggles.judge.reason,
        "snr_db": toggles.shipped_db,
        "speedup": toggles.shipped_speedup,
        "why_in_float": [w for p in report["passes"] if p["kind"] == "quantize" for w in p["warnings"] if "float" in w],
        "tried": quantised.get("trials", []),
        "regions": rows,
        "next_accuracy": _best_accuracy(rows),
        "next_time": _best_time(rows),
    }


@dataclass
class _Toggles:
    """The network as it ships, and with each region in its other precision."""

    folder: Path
    target: Target
    left: tuple[str, ...]
    """The names of the nodes in float, or of groups of `float_candidates`; ``*`` for all."""
    workdir: Path
    progress: Progress
    shipped_db: float | None = None
    shipped_speedup: float | None = None

    def rows(self) -> list[dict[str, Json]]:
        groups = float_candidates(self._graph)
        named = frozenset().union(*(groups.get(name, {name}) for name in self.left))
        floats = frozenset(self._integer_ops) if "*" in self.left else named
        parts = regions(self._integer_ops, {n.name or "": n.op_type for n in self._graph.graph}, _REGIONS)
        shipped = self._written(floats, "shipped.onnx")
        others = [self._written(_toggled(floats, part), f"region{i}.onnx") for i, part in enumerate(parts)]
        self.shipped_db, *decibels = [self._decibels(path) for path in (shipped, *others)]
        self.shipped_speedup, *speedups = quick_speedups(
            self._float_twin, [shipped, *others], self._one_run, self.target, self.judge, 0, self.progress
        )
        total = sum(self._macs.values()) or 1
        found = zip(parts, decibels, speedups, strict=True)
        return [self._row(part, floats, db, speedup, total) for part, db, speedup in found]

    def _row(
        self, part: frozenset[str], floats: frozenset[str], db: float, speedup: float | None, total: int
    ) -> dict[str, Json]:
        nodes = [name for name in self._integer_ops if name in part]
        assert self.shipped_db is not None
        change = self.shipped_speedup / speedup - 1 if speedup and self.shipped_speedup else None
        return {
            "first": nodes[0],
            "last": nodes[-1],
            "nodes": nodes,
            "macs_share": sum(self._macs.get(name, 0) for name in nodes) / total,
            "ships": self._float_name if part <= floats else "int8",
            "other": "int8" if part <= floats else self._float_name,
            "snr_change_db": db - self.shipped_db,
            "latency_change": change,
        }

    # -- graphs -----------------------------------------------------------------------------------

    @cached_property
    def _source(self) -> OnnxModel:
        """The float graph that was, or would have been, quantised."""
        found = Store(self.folder.resolve()).last_graph()
        plain = [each for each in found.chain() if each.precision == "fp32"] if found is not None else []
        if not plain or not plain[-1].path.is_file():
            raise UsageError(
                f"{self.folder} has no float network any more", hint="name the folder of a run that has ended, whole"
            )
        return plain[-1]

    @cached_property
    def _graph(self) -> ir.Model:
        return ir.load(self._source.path)

    @cached_property
    def _rules(self) -> QdqRules:
        return self._backend.rules(self.target)

    @cached_property
    def _backend(self) -> Backend:
        backend: Backend = catalog.find("backends", self.target.backend)()
        return backend

    @cached_property
    def judge(self) -> Judgement:
        return judgement(self.target, self._backend)

    @cached_property
    def _integer_ops(self) -> tuple[str, ...]:
        return Placement(ir.load(self._source.path), self._rules).integer_ops

    @cached_property
    def _ranges(self) -> Mapping[str, tuple[float, float]]:
        tensors = Placement(ir.load(self._source.path), self._rules).tensors
        feeds = one_run(self._manifest.signature, self._manifest.sizes, self._feeds)
        return activation_ranges(self._graph, tensors, [feeds], "minmax", self.progress)

    def _written(self, floats: frozenset[str], name: str) -> Path:
        graph, path = ir.load(self._source.path), self.workdir / name
        if not floats >= set(self._integer_ops):
            Placement(graph, self._rules, floats).apply(self._ranges)
            finish_quantized(graph, self._rules, path, None, packable=False)
            return path
        return self._float_twin

    @cached_property
    def _float_twin(self) -> Path:
        if self._rules.float_dtype == "float16":
            return fp16_twin(self._source, self.workdir / "float.onnx").path
        return self._source.path

    @property
    def _float_name(self) -> str:
        return "fp16" if self._rules.float_dtype == "float16" else "fp32"

    @cached_property
    def _macs(self) -> dict[str, int]:
        shapes = {name: array.shape for name, array in self._one_run.items()}
        return {layer.node: layer.macs for layer in audit(onnx.load(str(self._source.path)), shapes).layers}

    # -- samples ----------------------------------------------------------------------------------

    @cached_property
    def _manifest(self) -> Manifest:
        return Manifest.read(verify_bundle(self.folder).path)

    @cached_property
    def _feeds(self) -> Feeds:
        return golden_samples(bundle_folder(self.folder), self._manifest)[0]

    @cached_property
    def _one_run(self) -> Feeds:
        """The feeds of one sample, or of as many as a fixed batch has."""
        signature = self._manifest.signature
        feeds = one_run(signature, self._manifest.sizes, self._feeds)
        return feeds if signature.batch is None else {name: array[:1] for name, array in feeds.items()}

    @cached_property
    def _expected(self) -> Outputs:
        return self._outputs(self._source.path)

    def _outputs(self, path: Path) -> Outputs:
        session: Session = self.judge.open(path, threads=len(os.sched_getaffinity(0)))
        return run_in_batches(session, self._feeds, count_samples(session.signature, self._feeds))

    def _decibels(self, path: Path) -> float:
        """The SNR of the worst output."""
        parity = agreement_task().parity(self._expected, self._outputs(path))
        return min(each.db for each in parity.values())


def _toggled(floats: frozenset[str], part: frozenset[str]) -> frozenset[str]:
    return floats - part if part <= floats else floats | part


def _best_accuracy(rows: Sequence[Mapping[str, Json]]) -> Json:
    """The region that gains most SNR in float, by the time that it costs; None where none does."""
    gains = [row for row in rows if row["ships"] == "int8" and row["snr_change_db"] > 0]
    return max(gains, key=lambda row: row["snr_change_db"] / max(row["latency_change"] or 0.0, 0.001), default=None)


def _best_time(rows: Sequence[Mapping[str, Json]]) -> Json:
    """The region that saves most time in its other precision, by the SNR that it costs; None where none does."""
    gains = [row for row in rows if (row["latency_change"] or 0.0) < -_WORTH]
    return min(gains, key=lambda row: row["latency_change"] / max(-row["snr_change_db"], 0.1), default=None)
