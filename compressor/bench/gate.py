"""``compress gate``: a verdict that does not change from run to run: a pass, a failure, or neither.

The rule is fixed before anything is measured. A regression fails only where the whole 90 % interval of the ratio lies
over the tolerance, and passes only where the whole interval lies within it: two one-sided tests at 5 % (Schuirmann,
Journal of Pharmacokinetics and Biopharmaceutics 15, 1987). Else there is one extension, of twice as many blocks, judged
together with the first, and no other.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

from compressor.bench.accuracy import evaluate_models
from compressor.bench.bench_model import BenchModel
from compressor.bench.compare import SCHEMA_VERSION, Bench, document
from compressor.bench.device import TimingRun
from compressor.bench.statistics import enough, quantile, ratio
from compressor.bench.timing import TimingConfig
from compressor.budgets import Budget
from compressor.core import Exit, Json, Metric, Progress, Unavailable, UsageError
from compressor.figures import difference_unit, drop, format_movement

__all__ = ["Check", "Limits", "gate"]

PASS, FAIL, INCONCLUSIVE, INVALID = "pass", "fail", "inconclusive", "invalid"

_BLOCKS, _INFERENCES = 15, 20
_EXITS = {PASS: Exit.OK, FAIL: Exit.MISSED, INCONCLUSIVE: Exit.INCONCLUSIVE, INVALID: Exit.INCONCLUSIVE}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the candidate may cost; None: anything."""

    latency_ms: float | None = None
    percentile: float = 90.0
    """The percentile of all inferences that ``latency_ms`` limits."""
    regression: float | None = None
    """How much slower than the baseline, as a share: 0.05."""
    drop: float | None = None
    """In percentage points, or in the metric's own unit, such as dB."""
    bytes: float | None = None

    @classmethod
    def parse(
        cls,
        max_latency: str | None,
        percentile: float | None,
        max_regression: str | None,
        max_drop: float | None,
        max_bytes: str | None,
    ) -> Limits:
        """Read the flags. Raises UsageError for what is no limit, and where no flag is given."""
        if all(given is None for given in (max_latency, max_regression, max_drop, max_bytes)):
            raise UsageError(
                "there is nothing to gate on",
                hint="give --max-latency 5ms, --max-regression 5%, --max-drop 1.0 or --max-bytes 1MB, or several",
            )
        if percentile is not None and max_latency is None:
            raise UsageError("--percentile is for --max-latency, which is not given", hint="give both, or neither")
        chosen = 90.0 if percentile is None else percentile
        if not 1 <= chosen <= 99.9:
            raise UsageError(f"--percentile {chosen:g} is none", hint="give one from 1 to 99.9, such as 50, 90 or 99")
        if max_drop is not None and not math.isfinite(max_drop):
            raise UsageError(f"--max-drop {max_drop} is no limit", hint="give a number of points, such as 1.0")
        regression = None
        if max_regression is not None:
            number = max_regression.strip().removesuffix("%")
            try:
                regression = float(number) / 100
            except ValueError:
                regression = math.nan
            if not max_regression.strip().endswith("%") or not 0 <= regression <= 10:
                raise UsageError(f"--max-regression {max_regression!r} is none", hint="give a share, such as 5%")
        return cls(_absolute("latency", max_latency), chosen, regression, max_drop, _absolute("bytes", max_bytes))

    @property
    def timed(self) -> bool:
        return self.latency_ms is not None or self.regression is not None


@dataclass(frozen=True, slots=True)
class Check:
    """One limit, and its verdict."""

    name: str
    """``latency p90``, ``regression``, ``drop``, ``bytes``."""
    verdict: str
    """``pass``, ``fail``, ``inconclusive``, or ``invalid`` where the device changed meanwhile."""
    limit: float
    value: float | None
    low: float | None
    high: float | None
    """The bounds of the value: of a ratio the 90 % interval, of a percentile 99 % bounds; None: it is exact."""
    unit: str
    why: str
    """The verdict in a sentence."""


def gate(plan: Bench, limits: Limits, evaluate: str | None, progress: Progress, *, metric: str | None = None) -> Json:
    """Judge the candidate; return the document that ``compress gate --json`` prints.

    ``evaluate`` names samples for ``limits.drop``; without it the manifests' own figures are compared.
    Raises UsageError where a limit cannot be judged with what was given, Unavailable where the device is not the
    bundles' target: an estimate passes no gate, and fails none.
    """
    begun = time.monotonic()
    if plan.baseline is None and (limits.regression is not None or limits.drop is not None):
        flag = "--max-regression" if limits.regression is not None else "--max-drop"
        raise UsageError(f"{flag} compares with a baseline", hint="--against a bundle, a run's folder or an .onnx")
    if metric is not None and evaluate is None:
        raise UsageError("--metric is for --eval, which is not given", hint="give both, or neither")
    if evaluate is not None and limits.drop is None:
        raise UsageError("--eval is for --max-drop, which is not given", hint="give both, or neither")
    checks: list[Check] = []
    if limits.bytes is not None:
        checks.append(_bytes(len(plan.candidate.content), limits.bytes))
    metrics: dict[str, Metric] = {}
    if limits.drop is not None:
        metrics = _metrics(plan, evaluate, metric, progress)
        checks.append(_drop(metrics["baseline"], metrics["candidate"], limits.drop))
    measured: dict[str, Json] = {}
    if limits.timed:
        timed, measured = _timed(plan, limits, progress)
        checks = timed + checks
    verdicts = [check.verdict for check in checks]
    verdict = next((each for each in (FAIL, INVALID, INCONCLUSIVE) if each in verdicts), PASS)
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": verdict,
        "exit": int(_EXITS[verdict]),
        "seconds": round(time.monotonic() - begun, 3),
        "checks": [dataclasses.asdict(check) for check in checks],
        "metrics": {name: dataclasses.asdict(metric) for name, metric in metrics.items()} or None,
        "models": {name: _described(model) for name, model in plan.models.items()},
        **measured,
    }


# -- latency ----------------------------------------------------------------------------------


def _timed(plan: Bench, limits: Limits, progress: Progress) -> tuple[list[Check], dict[str, Json]]:
    config = _timing_config(limits)
    with plan.device() as device:
        if why := plan.target_mismatch(device):
            raise Unavailable(f"{why} A gate takes no estimate", hint="--board ssh://user@host, the target itself")
        facts = device.facts
        run = device.take(config, progress)
        checks = judge(run, limits)
        extended = any(check.verdict == INCONCLUSIVE for check in checks) and not run.changed
        if extended:
            more = dataclasses.replace(
                config, blocks=2 * config.blocks, seed=config.seed + 1, seconds=2 * config.seconds
            )
            run = run.pooled(device.take(more, progress))
            checks = judge(run, limits)
    tested = None
    if any(check.name == "regression" and check.verdict == INCONCLUSIVE for check in checks):
        tested = plan.self_test(run, facts, progress)
        able = tested.detectable(len(run.blocks["candidate"]))
        checks = [
            dataclasses.replace(check, why=f"{check.why}; this device resolves a change of {able:.1%} (A/A)")
            if check.name == "regression"
            else check
            for check in checks
        ]
    measured = document(plan, run, facts)
    measured |= {"extended": extended, "self_test": tested and dataclasses.asdict(tested)}
    return checks, measured


def _timing_config(limits: Limits) -> TimingConfig:
    """Return 15 blocks of 20, or of more where a percentile needs them: twice the fewest samples that bound it."""
    inferences = _INFERENCES
    if limits.latency_ms is not None:
        inferences = max(inferences, math.ceil(2 * enough(max(limits.percentile, 50)) / _BLOCKS))
    return TimingConfig(_BLOCKS, inferences)


def judge(run: TimingRun, limits: Limits) -> list[Check]:
    """Judge the latency limits by the samples at hand."""
    checks = []
    if limits.latency_ms is not None:
        checks.append(_latency(run, limits.latency_ms, limits.percentile))
    if limits.regression is not None:
        checks.append(_regression(run, limits.regression))
    if run.changed:
        why = f"what was timed is invalid: {'; '.join(run.changed)}"
        checks = [dataclasses.replace(check, verdict=INVALID, why=why) for check in checks]
    return checks


def _latency(run: TimingRun, limit: float, percentile: float) -> Check:
    found = quantile(run.blocks["candidate"], percentile)
    name = f"latency p{percentile:g}"
    low = "?" if found.low is None else f"{found.low:.3g}"
    high = "?" if found.high is None else f"{found.high:.3g}"
    why = f"p{percentile:g} is {found.value:.3g} ms ({low}–{high}), the limit {limit:g} ms"
    if found.high is not None and found.high <= limit:
        verdict = PASS
    elif found.low is not None and found.low > limit:
        verdict = FAIL
    else:
        verdict = INCONCLUSIVE
        why += ", which lies in between" if found.low is not None and found.high is not None else ": too few samples"
    return Check(name, verdict, limit, found.value, found.low, found.high, "ms", why)


def _regression(run: TimingRun, tolerance: float) -> Check:
    faster, (least, most) = ratio(run.blocks["baseline"], run.blocks["candidate"], seed=0)
    value, low, high = 1 / faster, 1 / most, 1 / least
    limit = 1 + tolerance
    why = f"{value:.3f} times the baseline's latency ({low:.3f}–{high:.3f}), the limit {limit:g}"
    verdict = FAIL if low > limit else PASS if high <= limit else INCONCLUSIVE
    if verdict == INCONCLUSIVE:
        why += ", which lies in between"
    return Check("regression", verdict, limit, value, low, high, "x", why)


# -- the rest ---------------------------------------------------------------------------------


def _bytes(size: int, limit: float) -> Check:
    verdict = PASS if size <= limit else FAIL
    return Check("bytes", verdict, limit, size, None, None, "B", f"{size:,} bytes, the limit {limit:,.0f}")


def _drop(baseline: Metric, candidate: Metric, limit: float) -> Check:
    unit = candidate.unit
    lost = drop(baseline.value, candidate.value, unit, higher_is_better=candidate.higher_is_better)
    verdict = PASS if lost <= limit + 1e-9 else FAIL
    moved = format_movement(baseline.value, candidate.value, unit)
    why = f"{candidate.name} {moved} on {candidate.samples:,} samples, the limit of a drop is {limit:g}"
    return Check("drop", verdict, limit, lost, None, None, difference_unit(unit), why)


def _metrics(plan: Bench, evaluate: str | None, metric: str | None, progress: Progress) -> dict[str, Metric]:
    """Return the baseline's and the candidate's metric on the same samples."""
    if evaluate is not None:
        return evaluate_models(plan.models, evaluate, metric, progress)
    found = {name: model.metric for name, model in plan.models.items()}
    known = {name: metric for name, metric in found.items() if metric is not None}
    if missing := [str(plan.models[name].path) for name in found if name not in known]:
        raise UsageError(f"{missing[0]} does not say how accurate it is", hint="name samples to judge both on: --eval")
    if len({(metric.name, metric.fingerprint) for metric in known.values()}) > 1:
        sources = " and ".join(f"{metric.source} ({metric.samples:,})" for metric in known.values())
        raise UsageError(f"the bundles were judged on different samples: {sources}", hint="judge both anew: --eval")
    return known


def _described(model: BenchModel) -> Json:
    return {"path": str(model.path), "sha256": model.sha256, "bytes": len(model.content)}


def _absolute(name: str, text: str | None) -> float | None:
    """Read a limit such as ``5ms`` or ``1MB``, in milliseconds or bytes. Raises UsageError for anything else."""
    if text is None:
        return None
    budget = Budget.parse(f"{name}={text}")
    if budget.relative:
        raise UsageError(
            f"--max-{name} {text} is relative, and has nothing to relate to",
            hint="give a figure such as 5ms or 1MB; --max-regression is relative to --against",
        )
    return budget.limit
