"""What a report says in words: the one place where its figures become text for people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from compressor.core import Json

NONE = "—"

# A metric's name: factor, unit of a value, unit of a difference.
METRICS = {"top1": (100.0, " %", " points"), "psnr": (1.0, " dB", " dB")}


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
    """Those that say something, by name."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget and how it went: ``met``, ``missed`` or ``not judged``."""

    name: str
    limit: str
    value: str
    verdict: str
    shortfall: str | None
    """What is wanting, where it is not met."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A report in words, for every view of it."""

    title: str
    changes: tuple[str, str, str]
    """Of size, of speed and of quality."""
    rows: tuple[Row, ...]
    limits: tuple[Limit, ...]
    steps: tuple[Step, ...]
    missing: tuple[str, ...]
    """Which figures are not there, and why."""
    notes: tuple[str, ...]
    """How the run read what it was given."""
    bundle: str | None
    next: str
    """What to do now."""
    command: str
    """What was typed, quoted for a shell."""

    @property
    def headline(self) -> str:
        """All that changed, on a line."""
        return " · ".join(self.changes)

    @classmethod
    def of(cls, report: Mapping[str, Json]) -> Summary:
        """Read a ``report.json`` of schema version 1."""
        return cls(
            title=f"{report['teacher']['family']} for {report['target']}, profile {report['profile']}",
            changes=_changes(report),
            rows=_rows(report),
            limits=tuple(_limit(budget) for budget in report["budgets"]),
            steps=tuple(_step(record) for record in report["passes"]),
            missing=_missing(report),
            notes=tuple(report["notes"]),
            bundle=report["bundle"] and report["bundle"]["path"],
            next=_next(report),
            command=shlex.join(report["command"]),
        )


# -- figures ----------------------------------------------------------------------------------


def legible(words: str) -> str:
    """Without control characters and marks that turn the writing round: a file's name may hold any."""
    return "".join(c for c in words if c.isprintable() or c == "\n")


def count(value: float | None, unit: str = "") -> str:
    """Three figures and a decimal prefix: 853018 is ``853k``."""
    if value is None:
        return NONE
    prefix = ""
    for limit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            value, prefix = value / limit, name
            break
    figure = f"{value:.2f}" if value < 10 and prefix else f"{value:.1f}" if value < 100 and prefix else f"{value:.0f}"
    return f"{figure}{' ' if unit else ''}{prefix}{unit}"


def milliseconds(value: float | None) -> str:
    """Three figures or so: ``0.043 ms``, ``6.00 ms``, ``12.5 ms``, ``250 ms``."""
    if value is None:
        return NONE
    return f"{value:.{3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0}f} ms"


def duration(seconds: float) -> str:
    """``0.3 s``, ``42 s``, ``12 min 05 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 1.1 else f"{ratio:.1f}x" if ratio < 100 else f"{ratio:.0f}x"


# -- comparing --------------------------------------------------------------------------------


def change(teacher: float | None, result: float | None, better: str, worse: str) -> tuple[str, bool | None]:
    """``4.1x smaller`` and True; differences under half a percent are none."""
    if not teacher or not result:
        return "", None
    ratio = teacher / result
    if 0.995 < ratio < 1.005:
        return "the same", None
    return (f"{_times(ratio)} {better}", True) if ratio > 1 else (f"{_times(1 / ratio)} {worse}", False)


def _speed(report: Mapping[str, Json]) -> tuple[str, bool | None]:
    """Faster or slower only where the interval says so: where it holds 1, neither is known."""
    speedup, interval = report["speedup"], report["speedup_interval"]
    teacher, result = report["teacher"]["latency_ms"], report["result"]["latency_ms"]
    if not teacher or not result:
        return "", None
    if speedup is None or interval is None:
        text, better = change(teacher["median"], result["median"], "faster", "slower")
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
    factor, _, unit = METRICS.get(result["name"], (1.0, "", ""))
    difference = round((result["value"] - teacher["value"]) * factor, 2)
    if difference == 0:
        return f"no change in {result['name']}", None
    return f"{difference:+.2f}{unit}", difference > 0


def _changes(report: Mapping[str, Json]) -> tuple[str, str, str]:
    size, _ = change(report["teacher"]["bytes"], report["result"]["bytes"], "smaller", "larger")
    size = "the same size" if size == "the same" else size
    speed, _ = _speed(report)
    quality, _ = _quality(report)
    return (size or "size unknown", speed or "latency not measured", quality or "accuracy not measured")


def _rows(report: Mapping[str, Json]) -> tuple[Row, ...]:
    teacher, result = report["teacher"], report["result"]
    return (
        Row("precision", teacher["precision"] or NONE, result["precision"] or NONE, "", None),
        Row(
            "parameters",
            count(teacher["params"]),
            count(result["params"]),
            *change(teacher["params"], result["params"], "fewer", "more"),
        ),
        Row(
            "MACs",
            count(teacher["macs"]),
            count(result["macs"]),
            *change(teacher["macs"], result["macs"], "fewer", "more"),
        ),
        Row(
            "file",
            count(teacher["bytes"], "B"),
            count(result["bytes"], "B"),
            *change(teacher["bytes"], result["bytes"], "smaller", "larger"),
        ),
        *_memory(teacher.get("memory_bytes"), result.get("memory_bytes")),
        Row(_metric_name(report), metric(teacher["metric"]), metric(result["metric"]), *_quality(report)),
        *_latency_rows(report),
    )


def _memory(teacher: int | None, result: int | None) -> tuple[Row, ...]:
    if teacher is None or result is None:
        return ()
    return (
        Row(
            "weights in memory", count(teacher, "B"), count(result, "B"), *change(teacher, result, "smaller", "larger")
        ),
    )


def _metric_name(report: Mapping[str, Json]) -> str:
    judged = report["result"]["metric"] or report["teacher"]["metric"]
    return f"{judged['name']}, {judged['samples']:,} samples" if judged else "accuracy"


def metric(judged: Json) -> str:
    """``89.00 %``, ``37.31 dB``."""
    if not judged:
        return NONE
    factor, unit, _ = METRICS.get(judged["name"], (1.0, "", ""))
    return f"{judged['value'] * factor:.2f}{unit}"


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
    for name in ("p90", "p99"):
        ours, theirs = result.get(name), teacher.get(name)
        if ours is not None or theirs is not None:
            compared = change(theirs, ours, "faster", "slower")
            rows.append(Row(f"latency, {name}", milliseconds(theirs), milliseconds(ours), *compared))
    return tuple(rows)


# -- everything else --------------------------------------------------------------------------


def _limit(outcome: Mapping[str, Json]) -> Limit:
    name, value = outcome["name"], outcome["value"]
    texts = {"latency": milliseconds(value), "max-drop": f"{value or 0:.2f}", "bytes": count(value, "B")}
    return Limit(
        name,
        limit=outcome["limit"].removeprefix(f"{name}="),
        value=NONE if value is None else texts.get(name, count(value)),
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
    """A pass's plain metrics in words; ``x_before`` and ``x`` become one note, of tables only parity's is read."""
    notes = []
    for key, value in metrics.items():
        stem = key.removesuffix("_before")
        if stem != key and stem in metrics:
            notes.append(f"{stem.replace('_', ' ')} {_figure(stem, value)} → {_figure(stem, metrics[stem])}")
        elif f"{key}_before" not in metrics and value is not None and not isinstance(value, Mapping | list):
            notes.append(f"{key.replace('_', ' ')} {_figure(key, value)}")
    return (*notes, *_parity(metrics))


def _parity(metrics: Mapping[str, Json]) -> list[str]:
    """How faithful each step of the lowering was, and the first layer that was not."""
    notes = []
    for rung in metrics.get("ladder") or ():
        agreement = "" if rung["agreement"] is None else f", {rung['agreement'] * 100:.1f} % of labels agree"
        notes.append(f"{rung['from']} → {rung['to']} {rung['db']:.0f} dB{agreement}")
    if drift := metrics.get("first_drift"):
        notes.append(f"first to drift {drift['tensor']}, {drift['db']:.0f} dB")
    return notes


def _figure(name: str, value: Json) -> str:
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
