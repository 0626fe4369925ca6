"""The search for a student: from a teacher and budgets to the one student that is taken."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, Self

import onnx_ir as ir
from torch import nn

from compressor.core import BudgetMissed, Context, Json, Model
from compressor.frontend import load_network
from compressor.lowering.save import file_bytes
from compressor.machine import machine, target_mismatch
from compressor.models.common.family import Architecture, classifies
from compressor.models.common.headed import family_of, label
from compressor.models.common.layers import count
from compressor.models.common.space import Heads
from compressor.scores.common.probe import untrained
from compressor.search.batch import ScoringBatch, samples_of
from compressor.search.branch import Branch, branches
from compressor.search.evolution import Candidate, evolve, front, order
from compressor.search.finalists import Finalist, Measuring, varied_depths
from compressor.search.latency import REFERENCE_OP, LatencyTable
from compressor.search.limits import Limits, loosened
from compressor.search.ranking import WEIGHTS
from compressor.search.report import Ranking
from compressor.search.scoring import Scoring, applicable, seeds_of
from compressor.search.successive_halving import HalvingResult, successive_halving
from compressor.search.teacher import teacher_graph, teacher_scores
from compressor.train.inherit import inherit

__all__ = ["Found", "search"]

_CHILDREN = 24
_WARM_SHARE = 0.95
"""The share of its weights that a warm-started student takes over from the teacher, at least."""


class Settings(Protocol):
    """The settings of `compressor.passes.search.Search` that a search reads."""

    @property
    def head(self) -> Heads: ...
    @property
    def budget(self) -> tuple[str, ...]: ...
    @property
    def soft_budget(self) -> bool: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def population(self) -> int: ...
    @property
    def finalists(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def inits(self) -> int: ...
    @property
    def bits(self) -> float: ...
    @property
    def processes(self) -> int: ...
    @property
    def halving_minutes(self) -> float: ...
    @property
    def halving_steps(self) -> tuple[int, ...]: ...
    @property
    def table(self) -> str | None: ...


@dataclass(frozen=True)
class Found:
    """The student that is taken, and what the report tells of the search."""

    best: Candidate
    metrics: Mapping[str, Json]
    warnings: tuple[str, ...]
    pinned: Mapping[str, Json]


def search(settings: Settings, families: Sequence[str], precision: str, teacher: Model, context: Context) -> Found:
    """Find the student of the families that scores best within the budgets.

    Writes the latency table to ``latency.json`` in the pass's folder. Raises BudgetMissed where no student obeys.
    """
    return StudentSearch.prepare(settings, families, precision, teacher, context).run()


@dataclass(frozen=True)
class Outcome:
    """The candidates and finalists that obey the budgets."""

    budgets: tuple[str, ...]
    ranked: list[Candidate]
    """All candidates that were scored, the best first."""
    finalists: list[Finalist]


@dataclass(frozen=True)
class StudentSearch:
    """A search that is ready to run: the teacher is timed, and the batch that candidates are scored on is drawn."""

    settings: Settings
    families: Mapping[str, Branch]
    teacher: Model
    context: Context
    network: nn.Module | None
    """The teacher's network; None where the teacher is an ONNX graph."""
    graph: ir.Model
    """The teacher's graph in float, for one size and any batch."""
    table: LatencyTable
    teacher_name: str
    """The teacher's entry in the table."""
    latency: float
    """The teacher's latency in multiples of the reference op's."""
    milliseconds: float
    """The teacher's latency."""
    scored_on: ScoringBatch
    scoring: Scoring
    bytes_per_param: float
    _warm: dict[Architecture, bool] = field(default_factory=dict)
    """Whether a student is warm-started, for those that were asked for."""

    @classmethod
    def prepare(
        cls, settings: Settings, families: Sequence[str], precision: str, teacher: Model, context: Context
    ) -> Self:
        """Load and time the teacher, and draw the batch."""
        input, target = teacher.input, context.target
        table = LatencyTable(target, precision, context.workdir, context.memo)
        if settings.table is not None:
            table.read(Path(settings.table))
        network = None if teacher.source is None else load_network(teacher)
        context.progress("time the teacher", 0, 1)
        graph = teacher_graph(teacher, network, target.opset)
        name = f"teacher {teacher.sha256[:16]}"
        taken = table.time_networks({name: graph})

        outputs = teacher_scores(teacher)
        upscale = context.task.facts.get("upscale_factor")
        searched = {
            name: Branch.of(name, settings.head, input, outputs, target.width_multiple, upscale) for name in families
        }
        train = None if context.data is None else context.data.train
        scored_on = ScoringBatch.draw(train, input, outputs, settings.samples or samples_of(input), context.seed)
        images = not classifies(searched[families[0]].seeds[0])
        names = applicable(tuple(WEIGHTS), None, images=images, labels=scored_on.labelled)
        processes = settings.processes or len(os.sched_getaffinity(0))
        inits = seeds_of(context.seed, settings.inits)
        scoring = Scoring(names, input, scored_on.batch, None, inits, processes)
        bytes_per_param = settings.bits / 8 if precision == "int8" else 4.0
        return cls(
            settings, searched, teacher, context, network, graph, table, name, taken[name],
            taken[name] * taken[REFERENCE_OP], scored_on, scoring, bytes_per_param,
        )  # fmt: skip

    # -- in the order that they run -----------------------------------------------------------------

    def run(self) -> Found:
        """Evolve and score candidates, measure the best, and take one of these."""
        outcome = self._within_budget()
        path = self.context.workdir / "latency.json"
        self.table.write(path)
        pinned: dict[str, Json] = {"table": str(path)}
        finalists = outcome.finalists
        halving = self._halving(finalists)
        if halving is not None:
            finalists = [finalists[i] for i in halving.order]
            pinned["halving_steps"] = list(halving.steps)
        metrics = self._metrics(outcome, finalists, halving)
        return Found(finalists[0].candidate, metrics, self._warnings(outcome), pinned)

    def _within_budget(self) -> Outcome:
        """Search within the budgets; with a soft budget, within looser and looser ones until some student obeys."""
        budgets = self.settings.budget
        while True:
            try:
                return self._within(budgets)
            except BudgetMissed:
                looser = tuple(map(loosened, budgets))
                if not self.settings.soft_budget or looser == budgets:
                    raise
                budgets = looser

    def _within(self, budgets: tuple[str, ...]) -> Outcome:
        limits = Limits.of(budgets, self.teacher, file_bytes(self.graph), self.milliseconds)
        found = self._candidates(limits)
        obeyed, families = ", ".join(budgets), " or ".join(self.families)
        if not found:
            raise BudgetMissed(
                f"no student of {families} obeys {obeyed}",
                hint="loosen the budget, search another space (--set search.space=…), "
                "or keep the network: --profile ptq",
            )
        ranked = [found[i] for i in order(found)]
        finalists = self._finalists(ranked, limits)
        if not finalists:
            raise BudgetMissed(
                f"of {len(found)} students of {families}, none that was measured whole obeys {obeyed}",
                hint="loosen the budget a little",
            )
        return Outcome(budgets, ranked, finalists)

    @cached_property
    def _branches(self) -> tuple[Branch, ...]:
        if self.settings.halving_minutes:
            return branches(self.families, self._is_warm_started)
        return tuple(self.families.values())

    def _candidates(self, limits: Limits) -> list[Candidate]:
        """Evolve and score the candidates of each branch, which have equal shares of the evaluations."""
        found: dict[Architecture, Candidate] = {}
        left = self.settings.evaluations
        for number, branch in enumerate(self._branches):
            evolved = self._evolve(branch, limits, left // (len(self._branches) - number))
            left -= len(evolved)
            for each in evolved:
                found.setdefault(each.architecture, each)
        return list(found.values())

    def _evolve(self, branch: Branch, limits: Limits, evaluations: int) -> list[Candidate]:
        multiple = self.context.target.width_multiple
        return evolve(
            branch.seeds,
            partial(self._judge_warm_started if branch.warm else self._judge, limits),
            self._score,
            step=partial(branch.space.step, multiple=multiple),
            evaluations=evaluations,
            population=self.settings.population,
            children=_CHILDREN,
            seed=self.context.seed,
            progress=self.context.progress,
        )

    def _judge(self, limits: Limits, architectures: Sequence[Architecture]) -> list[Candidate | None]:
        """Count the architectures, and predict the latencies of those whose counts obey; None for all others."""
        input = self.teacher.input
        costs = {a: count(a, input) for a in architectures}
        allowed = [a for a in architectures if limits.allow(costs[a], self.bytes_per_param)]
        shares = [each / self.latency for each in self.table.predict(allowed, input, self.context.progress)]
        kept = {a: share for a, share in zip(allowed, shares, strict=True) if share <= limits.latency}
        return [Candidate(a, costs[a].params, costs[a].macs, kept[a], {}) if a in kept else None for a in architectures]

    def _judge_warm_started(self, limits: Limits, architectures: Sequence[Architecture]) -> list[Candidate | None]:
        """As `_judge`, and None for a student that is not warm-started."""
        warm = list(filter(self._is_warm_started, architectures))
        judged = dict(zip(warm, self._judge(limits, warm), strict=True))
        return [judged.get(architecture) for architecture in architectures]

    def _score(self, architectures: Sequence[Architecture]) -> list[Mapping[str, float]]:
        key = [
            self.teacher.sha256, self.scored_on.fingerprint, len(self.scored_on.batch.labels), self.scoring.names,
            self.scoring.seeds, self.teacher.input.shape, list(map(label, architectures)),
        ]  # fmt: skip
        scored: list[Mapping[str, float]] = self.context.memo("scores", key, lambda: self.scoring(architectures))
        return scored

    def _finalists(self, ranked: list[Candidate], limits: Limits) -> list[Finalist]:
        """Measure the best candidates; before successive halving, the best of each branch, of different depths."""
        input, wanted = self.teacher.input, self.settings.finalists
        measuring = Measuring(
            self.table, self.teacher_name, self.graph, input, self.bytes_per_param, self.context
        )  # fmt: skip
        if not self.settings.halving_minutes:
            return measuring.finalists(ranked, wanted, limits)
        found: list[Finalist] = []
        for number, branch in enumerate(self._branches):
            members = [c for c in ranked if self._belongs(c.architecture, branch)]
            share = (wanted - len(found)) // (len(self._branches) - number)
            found += measuring.finalists(varied_depths(members, input), share, limits)
        return found

    def _belongs(self, architecture: Architecture, branch: Branch) -> bool:
        """Tell whether a candidate is of a branch: where another has its family's warm starts, without them."""
        apart = branch.warm or any(b.warm and b.family == branch.family for b in self._branches)
        return branch.holds(architecture) and (not apart or self._is_warm_started(architecture) is branch.warm)

    def _halving(self, finalists: Sequence[Finalist]) -> HalvingResult | None:
        """Distil the finalists for a while, where the settings say so."""
        minutes = self.settings.halving_minutes
        if not minutes or len(finalists) < 2:
            return None
        architectures = [f.candidate.architecture for f in finalists]
        return successive_halving(architectures, minutes, self.settings.halving_steps, self.teacher, self.context)

    # -- warm starts --------------------------------------------------------------------------------

    def _is_warm_started(self, architecture: Architecture) -> bool:
        """Tell whether nearly all weights of a student can be cut from the teacher's."""
        if self.network is None:
            return False
        if architecture not in self._warm:
            share = inherit(untrained(architecture, self.context.seed), self.network)
            self._warm[architecture] = share >= _WARM_SHARE
        return self._warm[architecture]

    # -- the report ---------------------------------------------------------------------------------

    def _metrics(
        self, outcome: Outcome, finalists: Sequence[Finalist], halving: HalvingResult | None
    ) -> dict[str, Json]:
        best, ranking = finalists[0], Ranking.of(outcome.ranked)
        weights = ", ".join(f"{weight:g} x {name}" for name, weight in WEIGHTS.items() if name in self.scoring.names)
        return {
            "space": family_of(best.candidate.architecture),
            "searched": list(self.families),
            "head": self.settings.head,
            "student": json.dumps(best.candidate.architecture.encode()),
            "budget": ", ".join(outcome.budgets),
            "evaluated": len(outcome.ranked),
            "params_before": self.teacher.params,
            "params": best.candidate.params,
            "macs_before": self.teacher.macs,
            "macs": best.candidate.macs,
            "latency_share_predicted": best.candidate.latency,
            "latency_share": best.latency,
            "timed_as": self.table.precision,
            "scored_on": self.scored_on.name,
            "score": f"mean of ranks: {weights}",
            "finalists": [
                {**ranking.row(f.candidate), "latency_share": f.latency, "bytes": f.bytes} for f in finalists
            ],
            **({} if halving is None else {"successive_halving": halving.report}),
            "front": [ranking.row(each) for each in front(outcome.ranked)],
            "candidates": ranking.points(),
        }

    def _warnings(self, outcome: Outcome) -> tuple[str, ...]:
        warnings = []
        if self.scored_on.is_noise:
            warnings.append("students were scored on noise: give --data for scores that see your images")
        if mismatch := target_mismatch(self.context.target, machine()):
            how = "from what the target's chip can do at most" if self.table.estimated else "as this machine's"
            warnings.append(f"latencies of students are estimated, {how}: {mismatch}")
        if outcome.budgets != self.settings.budget:
            asked, obeyed = ", ".join(self.settings.budget), ", ".join(outcome.budgets)
            warnings.append(f"no student obeys {asked}: {obeyed} was the budget")
        return tuple(warnings)
