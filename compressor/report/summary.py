"""A report in words, for every view of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from compressor.core import Json
from compressor.figures import (
    NONE,
    count,
    duration,
    format_change,
    format_drop,
    format_metric,
    is_metric,
    milliseconds,
)

__all__ = ["Limit", "Row", "Step", "Summary", "legible"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison. ``better`` is None where nothing changed or nothing is known."""

    name: str
    teacher: str
    result: str
    change: str
    better: bool | None


@dataclass(frozen=True, slots=True)
class Step:
    """What one pass gained and cost."""

    kind: str
    time: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    """Name and value of each setting that is not empty."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget and how it went: ``met``, ``missed`` or ``not judged``."""

    name: str
    limit: str
    value: str
    verdict: str
    shortfall: str | None
    """By how much, or why, the limit is not met."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A report in words, for every view of it."""

    title: str
    changes: tuple[str, str, str]
    """How size, speed and quality changed."""
    rows: tuple[Row, ...]
    limits: tuple[Limit, ...]
    steps: tuple[Step, ...]
    missing: tuple[str, ...]
    """Which figures are absent, and why."""
    notes: tuple[str, ...]
    """How the run read what it was given."""
    bundle: str | None
    next: str
    """What to do now."""
    command: str
    """What was typed, quoted for a shell."""

    @property
    def headline(self) -> str:
        """All that changed, on one line."""
        return " · ".join(self.changes)

    @classmethod
    def of(cls, report: Mapping[str, Json]) -> Summary:
        """Summarise a ``report.json`` of this program's schema version."""
        return cls(
            title=f"{report['teacher']['family']} for {report['target']}, profile {report['profile']}",
            changes=_changes(report),
            rows=_rows(report),
            limits=tuple(_limit(budget, report) for budget in report["budgets"]),
            steps=tuple(_step(record) for record in report["passes"]),
            missing=_missing(report),
            notes=tuple(report["notes"]),
            bundle=report["bundle"] and report["bundle"]["path"],
            next=_next(report),
            command=shlex.join(report["command"]),
        )


def legible(text: str) -> str:
    """Remove control characters and marks that reverse the direction of writing: a file name may hold any."""
    return "".join(c for c in text if c.isprintable() or c == "\n")


# -- comparing --------------------------------------------------------------------------------


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 1.1 else f"{ratio:.1f}x" if ratio < 100 else f"{ratio:.0f}x"


def _ratio(teacher: float | None, result: float | None, better: str, worse: str) -> tuple[str, bool | None]:
    """Compare two costs: ``4.1x smaller`` and True. Differences under half a percent are none."""
    if not teacher or not result:
        return "", None
    ratio = teacher / result
    if 0.995 < ratio < 1.005:
        return "the same", None
    return (f"{_times(ratio)} {better}", True) if ratio > 1 else (f"{_times(1 / ratio)} {worse}", False)


def _speed(report: Mapping[str, Json]) -> tuple[str, bool | None]:
    """Say faster or slower only where the interval of the speed-up excludes 1."""
    speedup, interval = report["speedup"], report["speedup_interval"]
    teacher, result = report["teacher"]["latency_ms"], report["result"]["latency_ms"]
    if not teacher or not result:
        return "", None
    if speedup is None or interval is None:
        text, better = _ratio(teacher["median"], result["median"], "faster", "slower")
    elif interval[0] <= 1 <= interval[1]:
        text, better = "as fast, within noise", None
    elif speedup > 1:
        text, better = f"{_times(speedup)} faster", True
    else:
        text, better = f"{_times(1 / speedup)} slower", False
    estimated = teacher["estimated"] or result["estimated"]
    return (f"{text} (estimated)" if estimated and text else text), better


def _quality(report: Mapping[str, Json]) -> tuple[str, bool | None]:
    teacher, result = report["teacher"]["metric"], report["result"]["metric"]
    if not teacher or not result:
        return "", None
    change = format_change(teacher["value"], result["value"], result["unit"])
    if not change:
        return f"no change in {result['name']}", None
    return change, (result["value"] > teacher["value"]) == result["higher_is_better"]


def _changes(report: Mapping[str, Json]) -> tuple[str, str, str]:
    size, _ = _ratio(report["teacher"]["bytes"], report["result"]["bytes"], "smaller", "larger")
    size = "the same size" if size == "the same" else size
    speed, _ = _speed(report)
    quality, _ = _quality(report)
    return (size or "size unknown", speed or "latency not measured", quality or "accuracy not measured")


def _rows(report: Mapping[str, Json]) -> tuple[Row, ...]:
    teacher, result = report["teacher"], report["result"]
    return (
        Row("precision", teacher["precision"] or NONE, result["precision"] or NONE, "", None),
        _cost("parameters", teacher["params"], result["params"], "", "fewer", "more"),
        _cost("MACs", teacher["macs"], result["macs"], "", "fewer", "more"),
        _cost("file", teacher["bytes"], result["bytes"], "B", "smaller", "larger"),
        *_memory(teacher["memory_bytes"], result["memory_bytes"]),
        Row(_metric_name(report), format_metric(teacher["metric"]), format_metric(result["metric"]), *_quality(report)),
        *_latency_rows(report),
    )


def _cost(name: str, teacher: float | None, result: float | None, unit: str, better: str, worse: str) -> Row:
    return Row(name, count(teacher, unit), count(result, unit), *_ratio(teacher, result, better, worse))


def _memory(teacher: int | None, result: int | None) -> tuple[Row, ...]:
    if teacher is None or result is None:
        return ()
    return (_cost("weights in memory", teacher, result, "B", "smaller", "larger"),)


def _metric_name(report: Mapping[str, Json]) -> str:
    metric = report["result"]["metric"] or report["teacher"]["metric"]
    return f"{metric['name']}, {metric['samples']:,} samples" if metric else "accuracy"


def _latency_rows(report: Mapping[str, Json]) -> tuple[Row, ...]:
    teacher, result = report["teacher"]["latency_ms"] or {}, report["result"]["latency_ms"] or {}
    verdict, better = _speed(report)
    interval = report["speedup_interval"]
    if better is not None and interval:
        low, high = interval if better else (1 / interval[1], 1 / interval[0])
        verdict += f" ({low:.2f}–{high:.2f})"
    samples = result.get("samples") or teacher.get("samples")
    name = f"latency, median of {samples:,}" if samples else "latency"
    rows = [Row(name, milliseconds(teacher.get("median")), milliseconds(result.get("median")), verdict, better)]
    for percentile in ("p90", "p99"):
        before, after = teacher.get(percentile), result.get(percentile)
        if before is not None or after is not None:
            compared = _ratio(before, after, "faster", "slower")
            rows.append(Row(f"latency, {percentile}", milliseconds(before), milliseconds(after), *compared))
    return tuple(rows)


# -- everything else --------------------------------------------------------------------------


def _limit(outcome: Mapping[str, Json], report: Mapping[str, Json]) -> Limit:
    name, value = outcome["name"], outcome["value"]
    if value is None:
        text = NONE
    elif name == "max-drop":
        metric = report["result"]["metric"]
        text = format_drop(value, metric["unit"] if metric else "")
    else:
        text = milliseconds(value) if name == "latency" else count(value, "B" if name == "bytes" else "")
    return Limit(
        name,
        limit=outcome["limit"].removeprefix(f"{name}="),
        value=text,
        verdict={True: "met", False: "missed", None: "not judged"}[outcome["met"]],
        shortfall=outcome["shortfall"],
    )


def _step(record: Mapping[str, Json]) -> Step:
    return Step(
        kind=record["kind"],
        time="cached" if record["cached"] else duration(record["seconds"]),
        notes=_notes(record["metrics"]),
        warnings=tuple(record["warnings"]),
        settings=tuple(
            (name, json.dumps(value, ensure_ascii=False))
            for name, value in record["settings"].items()
            if value not in (None, [], {})
        ),
    )


def _notes(metrics: Mapping[str, Json]) -> tuple[str, ...]:
    """Put a pass's plain metrics into words. ``x_before`` and ``x`` make one note; the only table read is parity's."""
    notes = []
    for key, value in metrics.items():
        stem = key.removesuffix("_before")
        if stem != key and stem in metrics:
            notes.append(f"{stem.replace('_', ' ')} {_figure(stem, value)} → {_figure(stem, metrics[stem])}")
        elif f"{key}_before" not in metrics and value is not None and _is_plain(value):
            notes.append(f"{key.replace('_', ' ')} {_figure(key, value)}")
    return (*notes, *_parity(metrics))


def _parity(metrics: Mapping[str, Json]) -> list[str]:
    """Say how faithful each step of the lowering is, and name the first layer that drifts."""
    notes = []
    for rung in metrics.get("ladder") or ():
        outputs = rung["outputs"]
        each = [_agreement(name if len(outputs) > 1 else "", parity) for name, parity in outputs.items()]
        notes.append(f"{rung['from']} → {rung['to']} {'; '.join(each)}")
    if drift := metrics.get("first_drift"):
        notes.append(f"first to drift {drift['tensor']}, {drift['db']:.0f} dB")
    return notes


def _agreement(name: str, parity: Mapping[str, Json]) -> str:
    share = "" if parity["agreement"] is None else f", {parity['agreement'] * 100:.1f} % of labels agree"
    return f"{name} {parity['db']:.0f} dB{share}".lstrip()


def _is_plain(value: Json) -> bool:
    return not isinstance(value, Mapping | list) or is_metric(value)


def _figure(name: str, value: Json) -> str:
    if is_metric(value):
        return f"{value['name']} {format_metric(value)}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and "bytes" in name:
        return count(value, "B")
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _missing(report: Mapping[str, Json]) -> tuple[str, ...]:
    missing = []
    if not report["result"]["metric"] and report["why_no_metric"]:
        missing.append(f"accuracy was not measured: {report['why_no_metric']}")
    if not report["result"]["latency_ms"] and report["why_no_latency"]:
        missing.append(f"latency was not measured: {report['why_no_latency']}")
    return tuple(missing)


def _next(report: Mapping[str, Json]) -> str:
    if report["engine"] == "pending":
        return f"left to do: {report['todo']}"
    if report["bundle"]:
        return f"next: compress verify {shlex.quote(report['bundle']['path'])}"
    return "no bundle was made: the profile has no verify pass"
