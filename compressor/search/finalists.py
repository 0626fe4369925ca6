"""The best candidates of a search, measured whole beside the teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

import onnx_ir as ir

from compressor.core import Context, InputSpec
from compressor.lowering.save import file_bytes
from compressor.models.common.headed import label
from compressor.models.common.layers import layers
from compressor.search.deployed import deployed_graph
from compressor.search.evolution import Candidate
from compressor.search.latency import LatencyTable
from compressor.search.limits import Limits

__all__ = ["Finalist", "Measuring", "varied_depths"]

_ROUNDS = 3
"""Rounds of measuring, at most. Each round measures further candidates in place of those that broke a budget."""


@dataclass(frozen=True)
class Finalist:
    """A candidate that was measured whole."""

    candidate: Candidate
    latency: float
    """The measured latency as a share of the teacher's, timed in turns with it."""
    bytes: int
    """The bytes of the file that was timed."""


@dataclass(frozen=True)
class Measuring:
    """The settings with which candidates are exported and timed together with the teacher."""

    table: LatencyTable
    teacher_name: str
    teacher_graph: ir.Model
    input: InputSpec
    bytes_per_param: float
    """Bytes that a parameter takes where it is stored in the end. In the file that is timed it takes 1 or 4."""
    context: Context

    def finalists(self, ranked: Sequence[Candidate], wanted: int, limits: Limits) -> list[Finalist]:
        """Return up to ``wanted`` of the best candidates that obey the limits when measured, the best score first.

        ``ranked`` are candidates, the best score first. Where measured latencies or files are larger than predicted,
        the predictions for the candidates of the next round are corrected by that.
        """
        passed: list[Finalist] = []
        tried: set[int] = set()
        slowdown, overhead = 1.0, 0.0
        for _ in range(_ROUNDS):
            hopeful = (
                i
                for i, c in enumerate(ranked)
                if i not in tried
                and c.latency * slowdown <= limits.latency
                and c.params * self.bytes_per_param + overhead <= limits.bytes
            )
            chosen = list(islice(hopeful, wanted - len(passed)))
            if not chosen:
                break
            tried |= set(chosen)
            measured = self._measured([ranked[i] for i in chosen])
            passed += [each for each in measured if self._obeys(each, limits)]
            slowdown = max(slowdown, median(f.latency / f.candidate.latency for f in measured))
            overhead = max(overhead, median(map(self._overhead, measured)))
        return sorted(passed, key=lambda f: ranked.index(f.candidate))

    def _obeys(self, finalist: Finalist, limits: Limits) -> bool:
        stored = finalist.candidate.params * self.bytes_per_param + self._overhead(finalist)
        return finalist.latency <= limits.latency and stored <= limits.bytes

    def _overhead(self, finalist: Finalist) -> float:
        """The bytes of the timed file that are not parameters: scales and the graph."""
        return finalist.bytes - (1.0 if self.table.precision == "int8" else 4.0) * finalist.candidate.params

    def _measured(self, candidates: Sequence[Candidate]) -> list[Finalist]:
        target, precision = self.context.target, self.table.precision
        graphs: dict[str, ir.Model] = {}
        for number, each in enumerate(candidates):
            self.context.progress("measure finalists", number, len(candidates))
            graphs[label(each.architecture)] = deployed_graph(
                each.architecture, self.input, target, precision, self.context.seed
            )
        taken = self.table.time_networks({self.teacher_name: self.teacher_graph, **graphs})
        return [
            Finalist(candidate, taken[key] / taken[self.teacher_name], file_bytes(graph))
            for candidate, (key, graph) in zip(candidates, graphs.items(), strict=True)
        ]


def varied_depths(ranked: Sequence[Candidate], input: InputSpec) -> list[Candidate]:
    """Order ranked candidates anew: the best of each depth, then the second best of each depth, and so on.

    Short distillations tell apart students of different depths, which the score finds alike.
    """
    met: Counter[int] = Counter()
    places = []
    for candidate in ranked:
        depth = len(layers(candidate.architecture, input))
        places.append(met[depth])
        met[depth] += 1
    return [ranked[i] for i in sorted(range(len(ranked)), key=lambda i: (places[i], i))]
