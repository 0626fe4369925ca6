"""Which operations of a graph run in integers: as many as keep the accuracy, and no more than gain time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from math import ceil, sqrt
from pathlib import Path

import onnx_ir as ir

from compressor.core import Json, Progress
from compressor.quant.knapsack import solve_knapsack
from compressor.quant.regions import regions
from compressor.quant.structural_variants import structural_variants

__all__ = ["PrecisionChoice", "PrecisionSearch"]

_REGIONS, _FEWEST = 24, 6
"""The most and the fewest regions that are tried one by one: each costs a graph, a session and some samples."""
_AT_ONCE = 1 << 31
"""Bytes of weights of the graphs that are timed together, all of them loaded."""
_FOR_PARTS = 0.6
"""The part of the time left that regions may take to be measured."""
_LEAST_SHARE = 0.2
"""The share of multiplications in integers under which a network may as well stay in float."""
_STEPS = 8
"""Limits of noise that are tried, by bisection."""
_GRAINS = 1_000_000
"""Whole numbers that the limit of noise is parted into."""
_LEAST_GAIN, _NO_LOSS = 0.002, 0.01
"""The share of the time that a region is taken to save at least, and what it must lose to count as slower."""
_ROUNDS, _WORTH = 3, 0.005
"""How often regions are tried in their other precision, and how much faster that must be."""
_LEAST_STEP, _MOST_STEPPED = 0.1, 5.0
"""The part of the allowance by which it shrinks at least after a choice was not confirmed, and the most that it is of.

What a network without labels may lose is counted in dB from 100: a tenth of that would be far too much."""


@dataclass(frozen=True)
class PrecisionChoice:
    """What was chosen, and what it was chosen from."""

    floats: frozenset[str] | None
    """The names of the nodes that stay in float; None where the whole network does."""
    reason: str | None
    """Why some stay in float, in a sentence; None where all that can runs in integers."""
    trials: tuple[Mapping[str, Json], ...]
    """Each graph that was tried: ``in_float``, ``drop``, ``speedup`` (None: not known)."""


@dataclass
class PrecisionSearch:
    """A search over graphs that differ in what they leave in float.

    All operations in integers is tried first, and taken where it keeps the allowance and is much faster than float.
    Else the structural variants are tried, the fastest first: gates (squeeze and excitation), arithmetic without
    weights, layers of few multiplications and grouped convolutions (whose integer kernels can be slow) in float. Where
    none will do, regions return to float on top of the fastest ones. What each alone in integers costs at the output
    (noise, which adds up) and gains in time is measured; those that lose time return, and of the others so many as the
    allowance takes, chosen so that the time gained is the most (a knapsack, solved exactly). In the end regions change
    their precision as long as that is faster.

    What is chosen is confirmed on samples that it was not chosen by; where it loses more than the allowance there, the
    search goes on with an allowance that is smaller by as much. Where nothing is left that is accurate enough and not
    slower the network stays in float.
    """

    graph: ir.Model
    """The float graph; its nodes have names."""
    integer_ops: Sequence[str]
    """The names of the nodes that the rules have run in integers, in order."""
    macs: Mapping[str, int]
    """Multiply-accumulates of the layers among them, by name."""
    make: Callable[[frozenset[str], Path], None]
    """Writes the graph in integers with the named nodes in float."""
    drop: Callable[[Path], float]
    """How much of the metric a file loses, in the unit in which drops are told."""
    elsewhere: Callable[[Path], tuple[float, float]]
    """How much a file loses on the samples that confirm a choice, and how much is allowed there."""
    parity: Callable[[Path], float]
    """The SNR in dB of a file's worst output against the float network's."""
    speedups: Callable[[Sequence[Path]], list[float | None]]
    """How many times as fast as float each file is; None where nothing tells."""
    allowed: float
    least_speedup: float | None
    """What it must be as fast as, against float; None: it may be slower."""
    ample_speedup: float
    """With so much all in integers is taken at once."""
    workdir: Path
    seconds: float
    progress: Progress
    _trials: list[dict[str, Json]] = field(default_factory=list)
    _refused: dict[frozenset[str], str] = field(default_factory=dict)
    """Why choices do not ship that keep the allowance on the samples that they were chosen by."""
    _numbers: Iterator[int] = field(default_factory=count)
    """Numbers for the files of trials."""
    _each: float = 0.0
    """Seconds that a trial takes to be written and timed."""
    _started: float = field(default_factory=time.monotonic)

    def run(self) -> PrecisionChoice:
        """Search; the files of trials are removed."""
        everything = self._try("all in integers", frozenset())
        if self._accurate(everything) and self._ample(everything) and self._confirmed(everything):
            return self._chosen(everything)
        tried = [everything, *self._variants()]
        variants = len(tried)
        while True:
            good, fast = self._sorted(tried)
            if not fast:
                tried += self._repaired(self._by_speed(tried[:variants]))
                good, fast = self._sorted(tried)
            if not fast:
                return self._in_float(tried, good)
            best = self._improved(fast[0])
            if self._confirmed(best):
                return self._chosen(best)
            tried.append(best)

    def _sorted(self, tried: Sequence[_Trial]) -> tuple[list[_Trial], list[_Trial]]:
        """Those that keep the allowance, the fastest first, and those of them that are no slower than float."""
        good = [each for each in self._by_speed(tried) if self._accurate(each)]
        return good, [each for each in good if self._fast(each)]

    # -- trials -----------------------------------------------------------------------------------

    def _try(self, name: str, floats: frozenset[str]) -> _Trial:
        trial = _Trial(name, floats, self._written(floats))
        trial.drop = self.drop(trial.path)
        (trial.speedup,) = self.speedups([trial.path])
        self._note(trial)
        return trial

    def _written(self, floats: frozenset[str]) -> Path:
        path = self.workdir / f"trial{next(self._numbers)}.onnx"
        self.make(floats, path)
        return path

    def _variants(self) -> list[_Trial]:
        """The structural variants that differ from all in integers, timed together."""
        begun = time.monotonic()
        named = structural_variants(self.graph, self.integer_ops, self.macs)
        trials = [_Trial(name, floats, self._written(floats)) for floats, name in named.items()]
        self.progress("time variants", 0, len(trials))
        for trial, speedup in zip(trials, self.speedups([each.path for each in trials]), strict=True):
            trial.speedup = speedup
        self._each = (time.monotonic() - begun) / max(1, len(trials))
        return trials

    def _accurate(self, trial: _Trial) -> bool:
        if trial.drop is None and not self._late():
            trial.drop = self.drop(trial.path)
            self._note(trial)
        return self._keeps(trial)

    def _keeps(self, trial: _Trial) -> bool:
        refused = trial.floats in self._refused
        return trial.drop is not None and not refused and trial.drop <= self.allowed

    def _confirmed(self, trial: _Trial) -> bool:
        """Whether a choice keeps the allowance on the samples apart; else the rest of the search has a smaller one.

        It shrinks in the proportion in which the choice lost too much, or by as much, whichever is less.
        """
        lost, allowed = self.elsewhere(trial.path)
        if lost <= allowed:
            return True
        assert trial.drop is not None
        told = f"{trial.name}: {lost:.3g} is lost on evaluation samples, and {allowed:.3g} is allowed"
        self._refused[trial.floats] = told
        smaller = max(trial.drop * allowed / lost, self.allowed - (lost - allowed))
        self.allowed = min(smaller, self.allowed - _LEAST_STEP * min(abs(self.allowed), _MOST_STEPPED))
        self._trials.append({"in_float": told, "drop": trial.drop, "speedup": trial.speedup})
        return False

    def _repaired(self, tried: Sequence[_Trial]) -> list[_Trial]:
        """The two fastest variants with as few regions in float as the allowance and time ask for."""
        made = []
        for base in tried[:2]:
            if not self._late() and (trial := self._packed(base)) is not None:
                made.append(trial)
        for trial, speedup in zip(made, self.speedups([each.path for each in made]), strict=True):
            trial.speedup = speedup
            self._note(trial)
        return made

    def _packed(self, base: _Trial) -> _Trial | None:
        """``base`` with the most worthwhile regions in integers whose noise keeps the allowance; None: none does."""
        noises = [part.noise for part in self._parts]
        low, high = min(noises, default=0.0), sum(noises)
        found, limit, seen = None, high, dict[frozenset[str], bool]()
        for step in range(_STEPS):
            floats = base.floats.union(*self._least_worth(limit))
            if floats not in seen and self._usable(floats):
                self.progress("what to leave in float", step, _STEPS)
                left = sum(part.nodes <= floats for part in self._parts)
                trial = _Trial(f"{base.name}, {left} of {len(noises)} regions in float", floats, self._written(floats))
                trial.drop = self.drop(trial.path)
                seen[floats] = self._keeps(trial)
                found = trial if seen[floats] else found
            more = seen.get(floats, True)  # too few integers are no use
            if (more and limit == sum(noises)) or self._late():
                break
            low, high = (limit, high) if more else (low, limit)
            limit = sqrt(low * high)
        return found

    def _least_worth(self, limit: float) -> list[frozenset[str]]:
        """The regions to leave in float: the others' noise is within ``limit``, and their gain the most."""
        worth = [part for part in self._parts if part.gain > 0]
        sizes = [[ceil(_GRAINS * part.noise / limit), 0] for part in worth]
        chosen = solve_knapsack([[0.0, part.gain] for part in worth], sizes, _GRAINS) if worth else ()
        assert chosen is not None  # all of them in float always fit
        held = {part.nodes for part, option in zip(worth, chosen, strict=True) if option == 0}
        return [part.nodes for part in self._parts if part.nodes not in held]

    def _share(self, floats: frozenset[str]) -> float:
        """The share of the multiplications that stays in integers; 1 of a network without any."""
        total = sum(self.macs.values())
        return sum(macs for name, macs in self.macs.items() if name not in floats) / total if total else 1.0

    def _improved(self, trial: _Trial) -> _Trial:
        """``trial`` with regions in their other precision where that is faster, and again, as long as it pays."""
        for _ in range(_ROUNDS):
            if trial.speedup is None or self._left < self._each * _REGIONS:
                break
            better = self._better(trial)
            to_float = frozenset().union(*(nodes for nodes in better if not nodes <= trial.floats))
            to_integers = frozenset().union(*(nodes for nodes in better if nodes <= trial.floats))
            for floats in dict.fromkeys(((trial.floats | to_float) - to_integers, trial.floats | to_float)):
                found = None if floats == trial.floats else self._faster(trial, floats)
                if found is not None:
                    break
            if found is None:
                break
            trial = found
        return trial

    def _better(self, trial: _Trial) -> list[frozenset[str]]:
        """The regions that make ``trial`` faster, each alone, in their other precision."""
        others = [
            trial.floats - part.nodes if part.nodes <= trial.floats else trial.floats | part.nodes
            for part in self._parts
        ]
        usable = [(part, floats) for part, floats in zip(self._parts, others, strict=True) if self._usable(floats)]
        paths = [self._written(floats) for _, floats in usable]
        self.progress("what the other precision gains, region by region", 0, len(paths))
        base, *speedups = self.speedups([trial.path, *paths])
        self._remove(paths)
        pairs = zip(usable, speedups, strict=True)
        return [part.nodes for (part, _), each in pairs if base and each and each > (1 + _WORTH) * base]

    def _faster(self, trial: _Trial, floats: frozenset[str]) -> _Trial | None:
        """The graph with ``floats`` in float, if it keeps the allowance and is faster than ``trial``."""
        if not self._usable(floats):
            return None
        made = _Trial(f"{len(floats)} of {len(self.integer_ops)} operations in float", floats, self._written(floats))
        made.drop = self.drop(made.path)
        if not self._keeps(made):
            return None
        before, made.speedup = self.speedups([trial.path, made.path])
        if not before or not made.speedup or made.speedup <= (1 + _WORTH) * before:
            return None
        self._note(made)
        return made

    @staticmethod
    def _remove(paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink()

    def _usable(self, floats: frozenset[str]) -> bool:
        return self._share(floats) >= _LEAST_SHARE

    @cached_property
    def _parts(self) -> list[_Part]:
        """The regions, with what each alone in integers costs and gains; one that there was no time for stays float."""
        time_for = int(_FOR_PARTS * self._left / self._each) if self._each else _REGIONS
        weights = (value.const_value for value in self.graph.graph.initializers.values())
        room_for = _AT_ONCE // max(1, sum(tensor.nbytes for tensor in weights if tensor is not None))
        most = min(max(_FEWEST, min(_REGIONS, time_for)), max(1, room_for))
        parts = regions(self.integer_ops, self._ops, most)
        everything = frozenset(self.integer_ops)
        paths: list[Path] = []
        noises: list[float] = []
        for number, region in enumerate(parts):
            self.progress("what integers cost, region by region", number, len(parts))
            paths.append(self._written(everything - region))
            noises.append(10 ** (-self.parity(paths[-1]) / 10))
            if self._late():
                break
        self.progress("what integers gain, region by region", 0, len(paths))
        speedups = self.speedups(paths)
        self._remove(paths)
        return [_Part(*found) for found in zip(parts, noises, map(self._gain, parts, speedups), strict=False)]

    def _gain(self, region: frozenset[str], speedup: float | None) -> float:
        """The share of the float network's time that a region in integers saves; about what it may be, if not known.

        A measurement of a small region says little: only a clear loss counts as one.
        """
        total = sum(self.macs.values()) or 1
        least = _LEAST_GAIN * (1 + sum(self.macs.get(name, 0) for name in region) / total)
        if speedup is None:
            return least
        gain = 1 - 1 / speedup
        return gain if gain < -_NO_LOSS else max(gain, least)

    # -- verdicts ---------------------------------------------------------------------------------

    def _fast(self, trial: _Trial) -> bool:
        return self.least_speedup is None or trial.speedup is None or trial.speedup >= self.least_speedup

    def _ample(self, trial: _Trial) -> bool:
        if self.least_speedup is None or trial.speedup is None:
            return True
        return trial.speedup >= max(self.least_speedup, self.ample_speedup)

    def _late(self) -> bool:
        return self._left <= 0

    @property
    def _left(self) -> float:
        """Seconds."""
        return self._started + self.seconds - time.monotonic()

    @cached_property
    def _ops(self) -> dict[str, str]:
        return {node.name or "": node.op_type for node in self.graph.graph}

    @staticmethod
    def _by_speed(trials: Iterable[_Trial]) -> list[_Trial]:
        """The fastest first; those of unknown speed as they come."""
        return sorted(trials, key=lambda each: -(each.speedup or 0.0))

    def _note(self, trial: _Trial) -> None:
        self._trials.append({"in_float": trial.name, "drop": trial.drop, "speedup": trial.speedup})

    def _chosen(self, trial: _Trial) -> PrecisionChoice:
        reason = None
        if trial.floats:
            reason = f"{trial.name}: all in integers {self._fault(self._trials[0])}"
        return PrecisionChoice(trial.floats, reason, tuple(self._trials))

    def _in_float(self, tried: Sequence[_Trial], good: Sequence[_Trial]) -> PrecisionChoice:
        if good:
            best = max(good, key=lambda each: each.speedup or 0.0)
            reason = f"the whole network stays in float: in integers it is no faster ({best.speedup:.2f}x at best)"
        elif self._refused:
            reason = f"the whole network stays in float: {list(self._refused.values())[-1]}"
        else:
            least = min((each.drop for each in tried if each.drop is not None), default=float("nan"))
            reason = f"the whole network stays in float: integers lose {least:.3g}, and {self.allowed:.3g} is allowed"
        return PrecisionChoice(None, reason, tuple(self._trials))

    def _fault(self, first: Mapping[str, Json]) -> str:
        if first["drop"] > self.allowed:
            return f"loses {first['drop']:.3g}, and {self.allowed:.3g} is allowed"
        return f"is {first['speedup']:.2f} times as fast as float"


@dataclass(frozen=True)
class _Part:
    """A region: its nodes, the noise that it alone in integers makes at the output, and the time that it saves.

    The noise is relative to the signal's power, the gain to the float network's time.
    """

    nodes: frozenset[str]
    noise: float
    gain: float


@dataclass
class _Trial:
    """A graph that was written, and what is known of it so far."""

    name: str
    floats: frozenset[str]
    path: Path
    drop: float | None = None
    speedup: float | None = None
