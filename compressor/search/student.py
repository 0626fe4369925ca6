"""The whole search: from a teacher and budgets to the one student that is taken."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import onnx_ir as ir

from compressor import catalog
from compressor.bench.machine import fits, machine
from compressor.budgets import Budget
from compressor.core import image_signature, BudgetMissed, Context, InputSpec, Json, Model
from compressor.lowering.export import export
from compressor.lowering.save import file_bytes
from compressor.frontend import load_network
from compressor.models.common.cost import Cost
from compressor.models.common.family import Architecture, Family
from compressor.models.common.layers import count, layers
from compressor.models.common.space import Heads, Space
from compressor.scores.common.probe import untrained
from compressor.search.batch import of_noise, of_split
from compressor.search.deployed import quantised
from compressor.search.evolution import Candidate, Judge, evolve, front, order
from compressor.search.latency import YARDSTICK, LatencyTable
from compressor.search.ranking import WEIGHTS, blend
from compressor.search.scoring import Scoring, applicable, seeds_of, teacher_view
from compressor.search.successive_halving import trials
from compressor.train.inherit import inherit

__all__ = ["Found", "search"]

_CHILDREN = 24
_HEATS = 3
_HEIR = 0.95
"""Of its weights, what a student takes over from its teacher to count as one that starts from there."""
_SEEN = 500
"""Candidates that the report shows."""
_TEACHER = "teacher"


class Settings(Protocol):
    """What `compressor.passes.search.Search` says."""

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
    def trial_steps(self) -> tuple[int, ...]: ...
    @property
    def table(self) -> str | None: ...


@dataclass(frozen=True)
class Finalist:
    """A candidate that was measured whole."""

    candidate: Candidate
    latency: float
    """As a share of the teacher's, interleaved with it."""
    bytes: int
    """Of the deployed file."""


@dataclass(frozen=True)
class Found:
    """The student that is taken, and what was seen on the way to it."""

    best: Candidate
    metrics: Mapping[str, Json]
    warnings: tuple[str, ...]
    pinned: Mapping[str, Json]


@dataclass(frozen=True)
class _Limits:
    """The budgets; the latency as a share of the teacher's."""

    params: float = math.inf
    macs: float = math.inf
    bytes: float = math.inf
    latency: float = math.inf

    def allow(self, cost: Cost, each: float) -> bool:
        """Whether a student's counts obey; of its bytes, those of the parameters: ``each``.

        Scales and the graph come on top, and are counted on the finalists.
        """
        return cost.params <= self.params and cost.macs <= self.macs and cost.params * each <= self.bytes


def search(settings: Settings, space: str, precision: str, teacher: Model, context: Context) -> Found:
    """Find the student of ``space`` that scores best within the budgets; write ``latency.json`` to the workdir.

    Raises BudgetMissed where no student of the space obeys.
    """
    family: type[Family] = catalog.find("models", space)
    members = Space(family, settings.head)
    target, input = context.target, teacher.input
    table = LatencyTable(target, precision, context.workdir, context.memo)
    if settings.table is not None:
        table.read(Path(settings.table))
    network = load_network(teacher)
    context.progress("time the teacher", 0, 1)
    graph = export(network, *image_signature(input), target.opset)  # of one size even where any will do: it is timed at that
    name = f"{_TEACHER} {teacher.sha256[:16]}"
    alone = table.together({name: lambda: graph})

    each_bytes = settings.bits / 8 if precision == "int8" else 4.0

    def judge(limits: _Limits, architectures: Sequence[Architecture]) -> list[Candidate | None]:
        costs = {a: count(a, input) for a in architectures}
        allowed = [a for a in architectures if limits.allow(costs[a], each_bytes)]
        shares = [each / alone[name] for each in table.predict(allowed, input, context.progress)]
        kept = {a: share for a, share in zip(allowed, shares, strict=True) if share <= limits.latency}
        return [Candidate(a, costs[a].params, costs[a].macs, kept[a], {}) if a in kept else None for a in architectures]

    if context.data is not None and context.data.train is not None:
        split: Any = context.data.train  # images of classes, or photographs
        batch, shown = of_split(split, settings.samples, context.seed), f"{settings.samples} images of {split.name}"
        source = split.fingerprint
    else:
        batch, shown = of_noise(input, teacher.outputs, settings.samples, context.seed), "noise, for want of data"
        source = "noise"
    view = teacher_view(network, batch, context.seed)

    @cache
    def heir(architecture: Architecture) -> bool:
        return inherit(untrained(architecture, context.seed), network) >= _HEIR

    inits = seeds_of(context.seed, settings.inits)
    processes = settings.processes or len(os.sched_getaffinity(0))
    images = context.task.output_range is not None
    scoring = Scoring(applicable(tuple(WEIGHTS), view, images=images), input, batch, view, inits, processes)

    def score(architectures: Sequence[Architecture]) -> list[Mapping[str, float]]:
        encodings = [a.encode() for a in architectures]
        key = [teacher.sha256, source, len(batch.labels), scoring.names, inits, input.shape, space, encodings]
        scored: list[Mapping[str, float]] = context.memo("scores", key, lambda: scoring(architectures))
        return scored

    factor = context.task.facts.get("upscale_factor")
    said = {} if factor is None else {"scale": factor}
    seeds = members.seeds(input, teacher.outputs, target.width_multiple, **said)

    def within(budgets: Sequence[str]) -> tuple[list[Candidate], list[Finalist]]:
        """All that were scored, the best first, and those of the best that were measured."""
        limits = _limits(budgets, teacher, file_bytes(graph), alone[name] * alone[YARDSTICK])

        def evolved(allowed: Judge, evaluations: int) -> list[Candidate]:
            return evolve(
                seeds,
                allowed,
                score,
                step=partial(members.step, multiple=target.width_multiple),
                evaluations=evaluations,
                population=settings.population,
                children=_CHILDREN,
                seed=context.seed,
                progress=context.progress,
            )

        def judge_heirs(architectures: Sequence[Architecture]) -> list[Candidate | None]:
            judged = dict(zip(heirs := list(filter(heir, architectures)), judge(limits, heirs), strict=True))
            return [judged.get(architecture) for architecture in architectures]

        if settings.halving_minutes:
            # What a score of untrained networks cannot see: how good a start the teacher's own weights are.
            met = [*evolved(partial(judge, limits), settings.evaluations // 2)]
            known = {each.architecture for each in met}
            later = evolved(judge_heirs, settings.evaluations - settings.evaluations // 2)
            found = met + [each for each in later if each.architecture not in known]
        else:
            found = evolved(partial(judge, limits), settings.evaluations)
        obeyed = ", ".join(budgets)
        if not found:
            raise BudgetMissed(
                f"no student of {space} obeys {obeyed}",
                hint="loosen the budget, search another space (--set search.space=…), "
                "or keep the network: --profile ptq",
            )
        ranked = [found[i] for i in order(found)]
        measured = partial(_finalists, input=input, limits=limits, table=table, teacher=(name, graph), context=context,
                           each=each_bytes)  # fmt: skip
        if settings.halving_minutes:
            own, others = ([c for c in ranked if heir(c.architecture) is wanted] for wanted in (True, False))
            finalists = measured(_varied(others, input), settings.finalists // 2)
            finalists = [*finalists, *measured(_varied(own, input), settings.finalists - len(finalists))]
        else:
            finalists = measured(ranked, settings.finalists)
        if not finalists:
            raise BudgetMissed(
                f"of {len(found)} students of {space}, none that was measured whole obeys {obeyed}",
                hint="loosen the budget a little",
            )
        return ranked, finalists

    budgets: Sequence[str] = settings.budget
    while True:
        try:
            ranked, finalists = within(budgets)
            break
        except BudgetMissed:
            looser = [_looser(each) for each in budgets]
            if not settings.soft_budget or looser == list(budgets):
                raise
            budgets = looser
    table.write(context.workdir / "latency.json")
    pinned: dict[str, Json] = {"table": str(context.workdir / "latency.json")}
    tried: dict[str, Json] = {}
    if settings.halving_minutes and len(finalists) > 1:
        architectures = [f.candidate.architecture for f in finalists]
        trial = trials(architectures, settings.halving_minutes, settings.trial_steps, teacher, context)
        finalists = [finalists[i] for i in trial.order]
        tried, pinned = {"trials": trial.told}, {**pinned, "trial_steps": list(trial.steps)}
    best, scores = finalists[0], _blended(ranked)
    weights = ", ".join(f"{weight:g} x {score}" for score, weight in WEIGHTS.items() if score in scoring.names)
    metrics = {
        "space": space,
        "head": settings.head,
        "student": json.dumps(best.candidate.architecture.encode()),
        "budget": ", ".join(budgets),
        "evaluated": len(ranked),
        "params_before": teacher.params,
        "params": best.candidate.params,
        "macs_before": teacher.macs,
        "macs": best.candidate.macs,
        "latency_share_predicted": best.candidate.latency,
        "latency_share": best.latency,
        "timed_as": precision,
        "scored_on": shown,
        "score": f"mean of ranks: {weights}",
        "finalists": [
            _line(f.candidate, ranked, scores) | {"latency_share": f.latency, "bytes": f.bytes} for f in finalists
        ],
        **tried,
        "front": [_line(each, ranked, scores) for each in front(ranked)],
        "candidates": _seen(ranked, scores),
    }
    warnings = _warnings(context, source, table)
    if view is None:
        warnings += ("the teacher's feature maps are not told apart: students are scored without DisWOT's terms",)
    if budgets is not settings.budget:
        warnings += (f"no student obeys {', '.join(settings.budget)}: {metrics['budget']} was the budget",)
    return Found(best.candidate, metrics, warnings, pinned)


def _looser(text: str) -> str:
    """Half as much again of a budget that is a share of the teacher's, up to all of it."""
    budget = Budget.parse(text)
    return f"{budget.name}={100 * min(1.0, 1.5 * budget.limit):g}%" if budget.relative and budget.limit < 1 else text


def _limits(budgets: Sequence[str], teacher: Model, size: int, milliseconds: float) -> _Limits:
    """``size`` is that of the teacher's file in bytes, ``milliseconds`` its latency."""
    own = {"params": teacher.params, "macs": teacher.macs, "bytes": size, "latency": milliseconds}
    limits: dict[str, float] = {}
    for budget in map(Budget.parse, budgets):
        limit = budget.limit * own[budget.name] if budget.relative else budget.limit
        limits[budget.name] = min(limit, limits.get(budget.name, math.inf))
    if "latency" in limits:
        limits["latency"] /= milliseconds
    return _Limits(**limits)


def _varied(ranked: Sequence[Candidate], input: InputSpec) -> list[Candidate]:
    """The best of each depth, then the second best of each …: trials tell apart what the score finds alike."""
    met: Counter[int] = Counter()
    places = []
    for candidate in ranked:
        depth = len(layers(candidate.architecture, input))
        places.append(met[depth])
        met[depth] += 1
    return [ranked[i] for i in sorted(range(len(ranked)), key=lambda i: (places[i], i))]


def _finalists(
    ranked: Sequence[Candidate],
    wanted: int,
    input: InputSpec,
    limits: _Limits,
    table: LatencyTable,
    teacher: tuple[str, ir.Model],
    context: Context,
    each: float,
) -> list[Finalist]:
    """Up to ``wanted`` of the best that obey the budgets when measured whole beside the teacher, as ``ranked``.

    ``each`` parameter takes so many bytes where it is stored, 1 or 4 in the file that is measured. Where measuring
    shows that the table was too kind, or what scales and the graph take on top, the others are judged by that.
    """
    passed: list[Finalist] = []
    tried: set[int] = set()
    correction, on_top = 1.0, 0.0
    held = 1.0 if table.precision == "int8" else 4.0
    for _ in range(_HEATS):
        hopeful = [
            i
            for i, c in enumerate(ranked)
            if i not in tried and c.latency * correction <= limits.latency and c.params * each + on_top <= limits.bytes
        ]
        heat = hopeful[: wanted - len(passed)]
        if not heat:
            break
        tried |= set(heat)
        measured = _whole([ranked[i] for i in heat], input, table, teacher, context)
        rests = [f.bytes - held * f.candidate.params for f in measured]
        passed += [
            f
            for f, rest in zip(measured, rests, strict=True)
            if f.latency <= limits.latency and f.candidate.params * each + rest <= limits.bytes
        ]
        correction = max(correction, median(f.latency / f.candidate.latency for f in measured))
        on_top = max(on_top, median(rests))
    return sorted(passed, key=lambda f: ranked.index(f.candidate))


def _whole(
    heat: Sequence[Candidate],
    input: InputSpec,
    table: LatencyTable,
    teacher: tuple[str, ir.Model],
    context: Context,
) -> list[Finalist]:
    name, graph = teacher
    graphs: dict[str, ir.Model] = {}
    for number, each in enumerate(heat):
        context.progress("measure finalists", number, len(heat))
        network = untrained(each.architecture, context.seed).eval()
        exported = export(network, *image_signature(input), context.target.opset)
        key = json.dumps(each.architecture.encode())
        graphs[key] = quantised(exported, context.target) if table.precision == "int8" else exported
    taken = table.together({name: lambda: graph} | {key: (lambda m=model: m) for key, model in graphs.items()})
    return [
        Finalist(candidate, taken[key] / taken[name], file_bytes(model))
        for candidate, (key, model) in zip(heat, graphs.items(), strict=True)
    ]


def _line(candidate: Candidate, ranked: Sequence[Candidate], blended: Sequence[float]) -> dict[str, Json]:
    """A candidate for the report; ``blended`` are the scores of ``ranked``."""
    place = ranked.index(candidate)
    return {
        "student": json.dumps(candidate.architecture.encode()),
        "rank": 1 + place,
        "score": blended[place],
        "params": candidate.params,
        "macs": candidate.macs,
        "latency_share_predicted": candidate.latency,
    }


def _blended(ranked: Sequence[Candidate]) -> list[float]:
    scores = blend({name: [c.scores[name] for c in ranked] for name in ranked[0].scores})
    return [round(float(score), 4) for score in scores]


def _seen(ranked: Sequence[Candidate], blended: Sequence[float]) -> list[list[float]]:
    """Predicted share of the latency and score of those that were scored, the best first.

    Of more than 500, so many evenly from the best to the worst.
    """
    step = max(1.0, len(ranked) / _SEEN)
    rows = [int(step * i) for i in range(min(len(ranked), _SEEN))]
    return [[round(ranked[row].latency, 5), blended[row]] for row in rows]


def _warnings(context: Context, source: str, table: LatencyTable) -> tuple[str, ...]:
    warnings = []
    if source == "noise":
        warnings.append("students were scored on noise: give --data for scores that see your images")
    if stranger := fits(context.target, machine()):
        of = "from what the target's chip can do at most" if table.estimated else "as this machine's"
        warnings.append(f"latencies of students are estimated, {of}: {stranger}")
    return tuple(warnings)
