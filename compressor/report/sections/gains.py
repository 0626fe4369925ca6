"""What each pass gained and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from compressor.core import Json
from compressor.figures import NONE, count, format_change, format_metric, format_value, milliseconds, scaled
from compressor.report.charts.waterfall import waterfall
from compressor.report.sections._section import Chart, Section, table

__all__ = ["gains"]


def gains(report: Mapping[str, Json]) -> Section | None:
    """Show size, latency and metric, from the teacher over every graph on the way to the result.

    A change of size or latency is credited to the pass that changed the structure, a change of the metric also to
    the pass that changed the weights.
    """
    stages = report["stages"] or []
    if not stages:
        return None
    teacher = report["teacher"]
    charts = []
    if teacher["bytes"] is not None:
        sizes = [(_credit(stage, before), stage["bytes"]) for stage, before in _pairs(teacher, stages)]
        charts.append(_costs("Size of the file", teacher["bytes"], sizes, lambda v: count(v, "B")))
    if _all(teacher, stages, "latency_ms"):
        times = [(_credit(stage, before), stage["latency_ms"]["median"]) for stage, before in _pairs(teacher, stages)]
        first = teacher["latency_ms"]["median"]
        charts.append(_costs("Latency, median at batch 1", first, times, milliseconds, lambda v: f"{v:.3g} ms"))
    if _all(teacher, stages, "metric"):
        charts.append(_quality(teacher, stages))
    rows = [_row("teacher", teacher), *(_row(" + ".join(stage["passes"]), stage) for stage in stages)]
    columns = ("after", "precision", "parameters", "file", "latency", "accuracy")
    text = "Every graph on the way was timed interleaved with teacher and result."
    return Section("gains", "What each pass gained and cost", (text,), tuple(charts), table("stages", columns, rows))


def _costs(
    title: str,
    teacher: float,
    steps: Sequence[tuple[str, float]],
    format_cost: Callable[[float], str],
    format_tick: Callable[[float], str] | None = None,
) -> Chart:
    def signed(value: float) -> str:
        return f"{'−' if value < 0 else '+'}{format_cost(abs(value))}"

    drawn = waterfall(title, teacher, steps, format_cost, signed, format_tick or format_cost, lower_is_better=True)
    return Chart(title, drawn)


def _quality(teacher: Json, stages: Sequence[Json]) -> Chart:
    name, unit = teacher["metric"]["name"], teacher["metric"]["unit"]
    factor = scaled(1.0, unit)  # the axis is in the number that is printed

    def words(value: float) -> str:
        return format_value(value / factor, unit)

    def signed(change: float) -> str:
        return (format_change(0.0, change / factor, unit) or "±0").replace("-", "−")

    def tick(value: float) -> str:
        return f"{value:.4g} {unit}".rstrip()

    steps = [
        (_credit(stage, before, weights=True), factor * stage["metric"]["value"])
        for stage, before in _pairs(teacher, stages)
    ]
    first, rising = factor * teacher["metric"]["value"], teacher["metric"]["higher_is_better"]
    return Chart(name, waterfall(name, first, steps, words, signed, tick, lower_is_better=not rising))


def _pairs(teacher: Json, stages: Sequence[Json]) -> list[tuple[Json, Json]]:
    """Pair each stage with the one before it."""
    return list(zip(stages, [teacher, *stages], strict=False))


def _credit(stage: Json, before: Json, *, weights: bool = False) -> str:
    """Name the passes that caused a change of size or latency, or with ``weights`` a change of the metric."""
    maker = stage["passes"][-1:] if stage["precision"] != before["precision"] else []
    changed = [stage["structure"], *([stage["weights"]] if weights else []), *maker]
    credited = list(dict.fromkeys(kind for kind in changed if kind)) or stage["passes"][-1:]
    return " + ".join(credited)


def _all(teacher: Json, stages: Sequence[Json], key: str) -> bool:
    return all(side[key] for side in (teacher, *stages))


def _row(name: str, side: Json) -> tuple[str, ...]:
    latency = side["latency_ms"]
    return (
        name,
        side["precision"] or NONE,
        count(side["params"]),
        count(side["bytes"], "B"),
        milliseconds(latency["median"] if latency else None),
        format_metric(side["metric"]),
    )
