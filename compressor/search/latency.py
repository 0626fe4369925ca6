"""Latencies of students on the target's runtime, predicted from a table of the latencies of blocks."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import nn

from compressor import catalog
from compressor.atomic import write
from compressor.bench.estimate import estimate
from compressor.core import Backend, InputSpec, Json, Progress, Target, UsageError
from compressor.lowering.export import export_each
from compressor.lowering.save import save
from compressor.machine import judgement, machine
from compressor.models.common.deployed import deployed
from compressor.models.common.family import Architecture
from compressor.models.common.layers import Part, parts
from compressor.search.deployed import integer_ends, quantised

__all__ = ["LatencyTable"]

Memo = Callable[[str, Json, Callable[[], Json]], Json]

REFERENCE_OP = "reference op"
"""The entry of the convolution that all latencies are divided by."""
CALL = "call"
"""The entry of an empty graph: the cost of calling the runtime."""
_ROUNDS = 11
_RUNS = 6
"""Inferences in a row of each graph in a round. The fastest counts, because disturbances only add time."""
_PARTS = 64
"""Parts exported and timed at a time: enough to share the exporter's fixed cost, few enough for memory."""


@dataclass
class LatencyTable:
    """Latencies at batch 1 of networks in their deployed form, as multiples of the latency of a reference op.

    A network's latency is the sum over its parts (stem, blocks, head), which are timed when a network first has
    them. The reference op is a float convolution. It is timed in the same rounds as the parts, in random order, so
    that entries taken at different times agree on a machine whose clocks drift and whose neighbours are busy.
    The cost of calling the runtime is an entry of its own, which counts once for a network.
    """

    target: Target
    precision: str
    folder: Path
    """Where the graphs that are timed lie while they are."""
    memo: Memo
    """As `compressor.core.Context.memo`: a run that goes on after a stop does not time again."""
    entries: dict[str, float] = field(default_factory=dict)

    @property
    def estimated(self) -> bool:
        """Whether entries are rooflines, because the target's runtime does not run on this machine."""
        return self.target.chip is not None and not judgement(self.target, self._backend).runs

    @property
    def _backend(self) -> Backend:
        backend: Backend = catalog.find("backends", self.target.backend)()
        return backend

    def fingerprint(self) -> dict[str, Json]:
        """Return the target, precision, runtime and CPU that the entries are valid for."""
        here, backend = machine(), self._backend
        return {
            "target": self.target.name,
            "precision": self.precision,
            "threads": self.target.threads,
            "runtime": "estimated" if self.estimated else f"{self.target.backend} {backend.version()}",
            "cpu": self.target.title if self.estimated else here.cpu,
        }

    def read(self, path: Path) -> None:
        """Add the entries that an earlier run wrote. Raises UsageError where they are for another target or machine."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            theirs, entries = table["fingerprint"], {str(k): float(v) for k, v in table["entries"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"cannot read the latency table {path}: {error}", hint="leave search.table out") from error
        here = self.fingerprint()
        differing = [f"{k}: {theirs.get(k)} there, {here[k]} here" for k in here if theirs.get(k) != here[k]]
        if differing:
            raise UsageError(
                f"the latency table {path} is not for this run: {'; '.join(differing)}", hint="leave search.table out"
            )
        self.entries |= entries

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        write(path, json.dumps({"fingerprint": self.fingerprint(), "entries": self.entries}, indent=1) + "\n")

    def predict(self, architectures: Sequence[Architecture], input: InputSpec, progress: Progress) -> list[float]:
        """Return the latency of each network in multiples of the reference op's, as the sum over its parts."""
        chains = [_chain(architecture, input) for architecture in architectures]
        missing = {link.key: link for chain in chains for link in chain if link.key not in self.entries}
        for start in range(0, len(missing), _PARTS):
            progress("time blocks", start, len(missing))
            keys = list(missing)[start : start + _PARTS]
            links = {key: missing[key] for key in keys}
            taken = self._timed([CALL, *keys], functools.partial(self._graphs, links))
            for key in (CALL, *keys):
                self.entries.setdefault(key, taken[key])
        call = self.entries.get(CALL, 0.0)  # missing only where there are no architectures
        return [call + sum(max(0.0, self.entries[link.key] - call) for link in chain) for chain in chains]

    def time_networks(self, graphs: Mapping[str, ir.Model]) -> dict[str, float]:
        """Time whole graphs in turns; return multiples of the reference op's latency, and that latency in ms.

        Graphs whose names were timed together before are not timed again.
        """
        group = hashlib.sha256("\0".join(graphs).encode()).hexdigest()[:8]
        keys = {name: f"{group} {name}" for name in (*graphs, REFERENCE_OP)}
        if any(key not in self.entries for key in keys.values()):
            taken = self._timed(list(keys), lambda: graphs)
            self.entries |= {key: taken[name] for name, key in keys.items()}
        return {name: self.entries[key] for name, key in keys.items()}

    def _timed(self, names: Sequence[str], graphs: Callable[[], Mapping[str, ir.Model]]) -> dict[str, float]:
        taken: dict[str, float] = self.memo(
            "latency", [self.fingerprint(), list(names)], lambda: self._measure(graphs())
        )
        return taken

    def _graphs(self, links: Mapping[str, _Link]) -> dict[str, ir.Model]:
        modules = [(link.module(), link.part.shape) for link in links.values()]
        graphs = {CALL: _empty(self.target.opset)}
        for (key, link), graph in zip(links.items(), export_each(modules, self.target.opset), strict=True):
            if self.precision == "int8":
                quantised(graph, self.target, float_output=link.last)
                integer_ends(graph, source=not link.first, sink=not link.last)
            graphs[key] = graph
        return graphs

    def _measure(self, graphs: Mapping[str, ir.Model]) -> dict[str, float]:
        every = {REFERENCE_OP: _reference_op(self.target.opset), **graphs}
        if self.estimated:
            rooflines = {name: _roofline(graph, self.target) for name, graph in every.items()}
            reference = rooflines[REFERENCE_OP]
            return {name: rooflines[name] / reference for name in graphs} | {REFERENCE_OP: reference}
        rounds = _time({name: self._runner(graph, number) for number, (name, graph) in enumerate(every.items())})
        taken = {name: median(r[name] / r[REFERENCE_OP] for r in rounds) for name in graphs}
        return {**taken, REFERENCE_OP: median(r[REFERENCE_OP] for r in rounds) / 1e6}

    def _runner(self, graph: ir.Model, number: int) -> Callable[[], object]:
        zeros = {name: np.zeros(shape, dtype) for name, (shape, dtype) in _feeds(graph).items()}
        path = save(graph, self.folder / f"timed{number}.onnx", self.precision).path
        session = self._backend.open(path, threads=self.target.threads)
        path.unlink()
        return lambda: session(zeros)


@dataclass(frozen=True)
class _Link:
    """A part and its place in a network."""

    architecture: Architecture
    index: int
    part: Part
    first: bool
    last: bool

    @property
    def key(self) -> str:
        text = f"{self.part.description} {self.part.shape} {self.first} {self.last}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def module(self) -> nn.Module:
        modules: tuple[nn.Module, ...] = deployed(self.architecture.build().eval()).parts()  # type: ignore[operator]
        return modules[self.index]


def _chain(architecture: Architecture, input: InputSpec) -> list[_Link]:
    chain = parts(architecture, input)
    return [_Link(architecture, i, part, i == 0, i == len(chain) - 1) for i, part in enumerate(chain)]


def _time(runners: Mapping[str, Callable[[], object]]) -> list[dict[str, float]]:
    """Return the nanoseconds of each runner in each round. In a round the runners follow in random order."""
    order, generator = list(runners), random.Random(0)  # noqa: S311 - no secret hangs on it
    rounds = []
    for number in range(-1, _ROUNDS):
        generator.shuffle(order)
        taken = {}
        for name in order:
            samples = []
            for _ in range(_RUNS):
                begun = perf_counter_ns()
                runners[name]()
                samples.append(perf_counter_ns() - begun)
            taken[name] = float(min(samples))
        if number >= 0:  # the first round warms up
            rounds.append(taken)
    return rounds


def _roofline(graph: ir.Model, target: Target) -> float:
    """Estimate the milliseconds of a graph at batch 1 on a device that is not at hand."""
    found = estimate(ir.to_proto(graph), {name: shape for name, (shape, _) in _feeds(graph).items()}, target)
    assert found is not None
    return found.median


def _feeds(graph: ir.Model) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and type of each input by name; a free axis has size 1."""
    feeds = {}
    for value in graph.graph.inputs:
        assert value.name is not None
        assert value.shape is not None
        assert value.dtype is not None
        feeds[value.name] = (tuple(d if isinstance(d, int) else 1 for d in value.shape), value.dtype.numpy())
    return feeds


@functools.cache
def _reference_op(opset: int) -> ir.Model:
    (graph,) = export_each([(nn.Conv2d(64, 64, 3, padding=1), (1, 64, 16, 16))], opset)
    return graph


def _empty(opset: int) -> ir.Model:
    """Make a graph of one Identity, whose latency is that of calling the runtime."""
    source = ir.Value(name="input", shape=ir.Shape([1, 8]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Identity", [source])
    sink = node.outputs[0]
    sink.name, sink.shape, sink.dtype = "output", ir.Shape([1, 8]), ir.DataType.FLOAT
    graph = ir.Graph([source], [sink], nodes=[node], opset_imports={"": opset}, name="empty")
    return ir.Model(graph, ir_version=10)
