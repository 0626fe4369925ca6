"""Which operations of a graph run in integers: as many as keep the accuracy, and no more than gain time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from compressor.core import Json, Progress
from compressor.quant.float_layers import attention_nodes
from compressor.quant.regions import WEIGHTED, regions

__all__ = ["PrecisionChoice", "PrecisionSearch"]

_REGIONS = 24
"""Regions that are tried one by one: each costs a graph, a session and some samples."""
_SMALL_SHARE = 0.01
"""A layer with a smaller share of the network's multiplications gains little in integers."""
_LEAST_SHARE = 0.2
"""The share of multiplications in integers under which a network may as well stay in float."""
_LEAST_STEP = 0.1
"""The part of the allowance by which it shrinks at least where a choice was not confirmed."""


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

    All operations in integers is tried first, and taken where it keeps the allowance and is no slower than float. Else
    the structural variants are tried, the fastest first: gates (squeeze and excitation), arithmetic without weights,
    layers of few multiplications and grouped convolutions (whose integer kernels can be slow) in float. Where none
    keeps the allowance, regions return to float on top of the fastest ones, in the order of what each alone in integers
    costs at the output, as many as it takes. What is chosen is confirmed on samples that it was not chosen by; where it
    loses more than the allowance there, the search goes on with an allowance that is smaller by as much. Where nothing
    is left that is accurate enough and not slower the network stays in float.
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
    workdir: Path
    seconds: float
    progress: Progress
    _trials: list[dict[str, Json]] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    def run(self) -> PrecisionChoice:
        """Search; the files of trials are removed."""
        everything = self._try("all in integers", frozenset())
        if self._accurate(everything) and self._fast(everything) and self._confirmed(everything):
            return self._chosen(everything)
        tried = [everything, *self._variants()]
        variants = len(tried)
        while True:
            good = [each for each in self._by_speed(tried) if self._accurate(each)]
            if not good:
                good = self._repaired(self._by_speed(tried[:variants]))
                tried += good
            fast = [each for each in good if self._fast(each)]
            if not fast:
                return self._in_float(tried, good)
            if self._confirmed(fast[0]):
                return self._chosen(fast[0])

    # -- trials -----------------------------------------------------------------------------------

    def _try(self, name: str, floats: frozenset[str]) -> _Trial:
        trial = _Trial(name, floats, self._written(floats))
        trial.drop = self.drop(trial.path)
        (trial.speedup,) = self.speedups([trial.path])
        self._note(trial)
        return trial

    def _written(self, floats: frozenset[str]) -> Path:
        path = self.workdir / f"trial{len(list(self.workdir.glob('trial*.onnx')))}.onnx"
        self.make(floats, path)
        return path

    def _variants(self) -> list[_Trial]:
        """The structural variants that differ from all in integers, timed together."""
        gates = attention_nodes(self.graph) & set(self.integer_ops)
        plain = frozenset(name for name in self.integer_ops if self._op(name) not in WEIGHTED)
        grouped = frozenset(node.name or "" for node in self.graph.graph if node.attributes.get_int("group", 1) > 1)
        grouped &= set(self.integer_ops)
        products = self._activation_products & set(self.integer_ops)
        total = sum(self.macs.values()) or 1
        small = frozenset(name for name, macs in self.macs.items() if macs < _SMALL_SHARE * total)
        named = {
            "gates in float": gates,
            "arithmetic without weights in float": plain,
            "gates and small layers in float": gates | small,
            "small layers and arithmetic in float": small | plain,
            "products of activations and arithmetic in float": products | plain,
            "grouped convolutions in float": grouped,
            "grouped convolutions and gates in float": grouped | gates,
            "grouped convolutions and arithmetic in float": grouped | plain,
        }
        variants: dict[frozenset[str], str] = {}
        for name, floats in named.items():
            if floats and floats < set(self.integer_ops):
                variants.setdefault(floats, name)
        trials = [_Trial(name, floats, self._written(floats)) for floats, name in variants.items()]
        self.progress("time variants", 0, len(trials))
        for trial, speedup in zip(trials, self.speedups([each.path for each in trials]), strict=True):
            trial.speedup = speedup
        return trials

    def _accurate(self, trial: _Trial) -> bool:
        if trial.drop is None and not self._late():
            trial.drop = self.drop(trial.path)
            self._note(trial)
        return self._keeps(trial)

    def _keeps(self, trial: _Trial) -> bool:
        return trial.drop is not None and not trial.refused and trial.drop <= self.allowed

    def _confirmed(self, trial: _Trial) -> bool:
        """Whether a choice keeps the allowance on the samples apart; else the rest of the search has a smaller one.

        It shrinks in the proportion in which the choice lost too much, or by as much, whichever is less.
        """
        lost, allowed = self.elsewhere(trial.path)
        if lost <= allowed:
            return True
        assert trial.drop is not None
        trial.refused = f"{trial.name}: {lost:.3g} is lost on evaluation samples, and {allowed:.3g} is allowed"
        smaller = max(trial.drop * allowed / lost, self.allowed - (lost - allowed))
        self.allowed = min(smaller, self.allowed - _LEAST_STEP * abs(self.allowed))
        self._trials.append({"in_float": trial.refused, "drop": trial.drop, "speedup": trial.speedup})
        return False

    def _repaired(self, tried: Sequence[_Trial]) -> list[_Trial]:
        """The two fastest variants with as many regions in float as the allowance takes."""
        order = self._sensitive_regions
        made = []
        for base in tried[:2]:
            if not self._late() and (trial := self._prefix(base, order)) is not None:
                made.append(trial)
        for trial, speedup in zip(made, self.speedups([each.path for each in made]), strict=True):
            trial.speedup = speedup
            self._note(trial)
        return self._by_speed(made)

    def _prefix(self, base: _Trial, order: Sequence[frozenset[str]]) -> _Trial | None:
        """``base`` with the fewest of the most sensitive regions in float that keep the allowance; None: none does."""
        found: _Trial | None = None
        low, high = 1, len(order) - 1  # all of them in float is the float network
        while high and self._share(base.floats.union(*order[:high])) < _LEAST_SHARE:
            high -= 1
        while low <= high and not self._late():
            count = (low + high) // 2 if found or low > 1 else min(high, 2)
            floats = base.floats.union(*order[:count])
            trial = _Trial(f"{base.name}, {count} of {len(order)} regions in float", floats, self._written(floats))
            trial.drop = self.drop(trial.path)
            self.progress("what to leave in float", count, len(order))
            if self._keeps(trial):
                found, high = trial, count - 1
            else:
                low = count + 1
        return found

    def _share(self, floats: frozenset[str]) -> float:
        """The share of the multiplications that stays in integers; 1 of a network without any."""
        total = sum(self.macs.values())
        return sum(macs for name, macs in self.macs.items() if name not in floats) / total if total else 1.0

    @cached_property
    def _sensitive_regions(self) -> list[frozenset[str]]:
        """The regions, the one first that alone in integers costs the output most."""
        parts = regions(self.integer_ops, self._ops, _REGIONS)
        everything = frozenset(self.integer_ops)
        costs: list[tuple[float, int]] = []
        for number, region in enumerate(parts):
            self.progress("what integers cost, region by region", number, len(parts))
            path = self.workdir / "region.onnx"
            self.make(everything - region, path)
            costs.append((self.parity(path), number))
            path.unlink()
            if self._late():
                break
        return [parts[number] for _, number in sorted(costs)]

    # -- verdicts ---------------------------------------------------------------------------------

    def _fast(self, trial: _Trial) -> bool:
        return self.least_speedup is None or trial.speedup is None or trial.speedup >= self.least_speedup

    def _late(self) -> bool:
        return time.monotonic() - self._started > self.seconds

    def _op(self, name: str) -> str:
        return self._ops[name]

    @cached_property
    def _ops(self) -> dict[str, str]:
        return {node.name or "": node.op_type for node in self.graph.graph}

    @property
    def _activation_products(self) -> frozenset[str]:
        """The names of matrix products without a constant, as attention has them."""
        products = (node for node in self.graph.graph if node.op_type == "MatMul")
        own = (n for n in products if all(v is not None and not v.is_initializer() for v in n.inputs))
        return frozenset(node.name or "" for node in own)

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
        elif refused := [each for each in tried if each.refused]:
            reason = f"the whole network stays in float: {refused[-1].refused}"
        else:
            least = min((each.drop for each in tried if each.drop is not None), default=float("nan"))
            reason = f"the whole network stays in float: integers lose {least:.3g}, and {self.allowed:.3g} is allowed"
        return PrecisionChoice(None, reason, tuple(self._trials))

    def _fault(self, first: Mapping[str, Json]) -> str:
        if first["drop"] > self.allowed:
            return f"loses {first['drop']:.3g}, and {self.allowed:.3g} is allowed"
        return f"is slower than float ({first['speedup']:.2f}x)"


@dataclass
class _Trial:
    """A graph that was written, and what is known of it so far."""

    name: str
    floats: frozenset[str]
    path: Path
    drop: float | None = None
    speedup: float | None = None
    refused: str | None = None
    """Why it does not ship though it keeps the allowance on the samples that it was chosen by."""
