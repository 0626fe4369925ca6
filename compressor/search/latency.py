"""What students will take on the target's runtime, from a table of block latencies."""

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

import numpy as np
import onnx_ir as ir
from torch import nn

from compressor import catalog
from compressor.atomic import write
from compressor.bench.estimate import estimate
from compressor.bench.machine import can_run, machine
from compressor.core import InputSpec, Json, Progress, Target, UsageError
from compressor.export import export_each, save
from compressor.models._family import Architecture
from compressor.models._layers import Part, parts
from compressor.search.deployed import integer_ends, quantised

__all__ = ["LatencyTable"]

Memo = Callable[[str, Json, Callable[[], Json]], Json]

_ROUNDS = 11
_RUNS = 6
"""Inferences in a row, a round and graph. The fastest counts: what disturbs it only ever adds."""
_TOGETHER = 64
"""Parts exported and timed at a time: enough to share the exporter's fixed cost, few enough for memory."""
YARDSTICK = "yardstick"
CALL = "call"


@dataclass
class LatencyTable:
    """Latencies in the form in which networks are deployed, as multiples of a yardstick.

    A network's is the sum over its parts (stem, blocks, head). The yardstick is a float convolution,
    timed in the same rounds as the parts and in random order with them, so that entries taken at
    different times agree on a machine whose clocks drift and whose neighbours are busy. What a call
    of the runtime costs by itself is an entry of its own, counted once a network. Parts are timed
    when a network first needs them; whole networks have entries too.
    """

    target: Target
    precision: str
    folder: Path
    """For the graphs that are timed."""
    memo: Memo
    """As `compressor.core.Context.memo`: what was timed before a run was stopped is not timed again."""
    entries: dict[str, float] = field(default_factory=dict)

    @property
    def estimated(self) -> bool:
        """Whether entries are rooflines: the target's runtime does not run on this machine."""
        return self.target.chip is not None and not can_run(self.target, machine())

    def fingerprint(self) -> dict[str, Json]:
        """What a table is valid for."""
        here, backend = machine(), catalog.find("backends", self.target.backend)()
        return {
            "target": self.target.name,
            "precision": self.precision,
            "threads": self.target.threads,
            "runtime": "estimated" if self.estimated else f"{self.target.backend} {backend.version()}",
            "cpu": self.target.title if self.estimated else here.cpu,
        }

    def read(self, path: Path) -> None:
        """Take over what an earlier run wrote. Raises UsageError where that is not for this target and machine."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            wanted, entries = table["fingerprint"], {str(k): float(v) for k, v in table["entries"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"cannot read the latency table {path}: {error}", hint="leave search.table out") from error
        here = self.fingerprint()
        differing = [f"{k}: {wanted.get(k)} there, {here[k]} here" for k in here if wanted.get(k) != here[k]]
        if differing:
            raise UsageError(
                f"the latency table {path} is not for this run: {'; '.join(differing)}", hint="leave search.table out"
            )
        self.entries |= entries

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        write(path, json.dumps({"fingerprint": self.fingerprint(), "entries": self.entries}, indent=1) + "\n")

    def predict(self, architectures: Sequence[Architecture], input: InputSpec, progress: Progress) -> list[float]:
        """The latency of each network at batch 1, in yardsticks, from its parts."""
        chains = [_chain(architecture, input) for architecture in architectures]
        missing = {link.key: link for chain in chains for link in chain if link.key not in self.entries}
        for start in range(0, len(missing), _TOGETHER):
            progress("time blocks", start, len(missing))
            keys = list(missing)[start : start + _TOGETHER]
            links = {key: missing[key] for key in keys}
            taken = self._timed([CALL, *keys], functools.partial(self._graphs, links))
            for key in (CALL, *keys):
                self.entries.setdefault(key, taken[key])
        call = self.entries.get(CALL, 0.0)  # not there only where no network is asked for
        return [call + sum(max(0.0, self.entries[link.key] - call) for link in chain) for chain in chains]

    def together(self, graphs: Mapping[str, Callable[[], ir.Model]]) -> dict[str, float]:
        """The latencies of whole graphs at batch 1, interleaved, in yardsticks; and the yardstick's in ms.

        A graph is made only if these names have not been timed together before.
        """
        group = hashlib.sha256("\0".join(graphs).encode()).hexdigest()[:8]
        keys = {name: f"{group} {name}" for name in (*graphs, YARDSTICK)}
        if any(key not in self.entries for key in keys.values()):
            taken = self._timed(list(keys), lambda: {name: make() for name, make in graphs.items()})
            self.entries |= {key: taken[name] for name, key in keys.items()}
        return {name: self.entries[key] for name, key in keys.items()}

    def _timed(self, names: Sequence[str], graphs: Callable[[], Mapping[str, ir.Model]]) -> dict[str, float]:
        taken: dict[str, float] = self.memo(
            "latency", [self.fingerprint(), list(names)], lambda: self._measure(graphs())
        )
        return taken

    def _graphs(self, links: Mapping[str, _Link]) -> dict[str, ir.Model]:
        modules = [(link.module(), link.part.shape) for link in links.values()]
        graphs = {CALL: _nothing(self.target.opset)}
        for (key, link), graph in zip(links.items(), export_each(modules, self.target.opset), strict=True):
            if self.precision == "int8":
                quantised(graph, self.target, float_output=link.last)
                integer_ends(graph, source=not link.first, sink=not link.last)
            graphs[key] = graph
        return graphs

    def _measure(self, graphs: Mapping[str, ir.Model]) -> dict[str, float]:
        every = {YARDSTICK: _yardstick(self.target.opset), **graphs}
        if self.estimated:
            rooflines = {name: _roofline(graph, self.target) for name, graph in every.items()}
            return {name: rooflines[name] / rooflines[YARDSTICK] for name in graphs} | {YARDSTICK: rooflines[YARDSTICK]}
        rounds = _time({name: self._runner(graph, number) for number, (name, graph) in enumerate(every.items())})
        taken = {name: median(r[name] / r[YARDSTICK] for r in rounds) for name in graphs}
        return {**taken, YARDSTICK: median(r[YARDSTICK] for r in rounds) / 1e6}

    def _runner(self, graph: ir.Model, number: int) -> Callable[[], object]:
        source = graph.graph.inputs[0]
        assert source.shape is not None
        assert source.dtype is not None
        batch = np.zeros([d if isinstance(d, int) else 1 for d in source.shape], source.dtype.numpy())
        path = save(graph, self.folder / f"timed{number}.onnx", self.precision).path
        session = catalog.find("backends", self.target.backend)().open(path, threads=self.target.threads)
        path.unlink()
        return lambda: session(batch)


@dataclass(frozen=True)
class _Link:
    """A part in its place in a network's chain."""

    architecture: Architecture
    index: int
    part: Part
    first: bool
    last: bool

    @property
    def key(self) -> str:
        said = f"{self.part.description} {self.part.shape} {self.first} {self.last}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def module(self) -> nn.Module:
        modules: tuple[nn.Module, ...] = self.architecture.build().eval().parts()  # type: ignore[operator]
        return modules[self.index]


def _chain(architecture: Architecture, input: InputSpec) -> list[_Link]:
    chain = parts(architecture, input)
    return [_Link(architecture, i, part, i == 0, i == len(chain) - 1) for i, part in enumerate(chain)]


def _time(runners: Mapping[str, Callable[[], object]]) -> list[dict[str, float]]:
    """Nanoseconds of each runner in each round; in a round they take turns in random order."""
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
    """Milliseconds at batch 1 on a device that is not here."""
    source = graph.graph.inputs[0]
    assert source.shape is not None
    sizes = [d if isinstance(d, int) else 1 for d in source.shape]
    found = estimate(ir.to_proto(graph), sizes[1:], target)
    assert found is not None
    return found.median


@functools.cache
def _yardstick(opset: int) -> ir.Model:
    (graph,) = export_each([(nn.Conv2d(64, 64, 3, padding=1), (1, 64, 16, 16))], opset)
    return graph


def _nothing(opset: int) -> ir.Model:
    """A graph that computes nothing: what calling the runtime costs."""
    source = ir.Value(name="input", shape=ir.Shape([1, 8]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Identity", [source])
    sink = node.outputs[0]
    sink.name, sink.shape, sink.dtype = "output", ir.Shape([1, 8]), ir.DataType.FLOAT
    graph = ir.Graph([source], [sink], nodes=[node], opset_imports={"": opset}, name="nothing")
    return ir.Model(graph, ir_version=10)
