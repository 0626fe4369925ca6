"""What each pass bought and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from compressor.core import Json
from compressor.report.charts.waterfall import waterfall
from compressor.report.sections._section import Chart, Section, table
from compressor.report.summary import METRICS, NONE, count, metric, milliseconds

__all__ = ["gains"]


def gains(report: Mapping[str, Json]) -> Section | None:
    """Size, latency and accuracy, from the teacher over every graph on the way to the result.

    A structure decides size and latency, weights decide accuracy: so is credited what passes did between two graphs.
    """
    stages = report["stages"] or []
    if not stages:
        return None
    teacher = report["teacher"]
    charts = []
    if teacher["bytes"] is not None:
        sizes = [(_owed(stage, before), stage["bytes"]) for stage, before in _pairs(teacher, stages)]
        charts.append(_costs("Size of the file", teacher["bytes"], sizes, lambda v: count(v, "B")))
    if _all(teacher, stages, "latency_ms"):
        taken = [(_owed(stage, before), stage["latency_ms"]["median"]) for stage, before in _pairs(teacher, stages)]
        first = teacher["latency_ms"]["median"]
        charts.append(_costs("Latency, median at batch 1", first, taken, milliseconds, lambda v: f"{v:.3g} ms"))
    if _all(teacher, stages, "metric"):
        charts.append(_worth(teacher, stages))
    rows = [_row("teacher", teacher), *(_row(" + ".join(stage["passes"]), stage) for stage in stages)]
    columns = ("after", "precision", "parameters", "file", "latency", "accuracy")
    words = "Every graph on the way was measured beside the teacher's, in the same turns."
    return Section("gains", "What each pass bought and cost", (words,), tuple(charts), table("stages", columns, rows))


def _costs(
    title: str,
    teacher: float,
    steps: Sequence[tuple[str, float]],
    words: Callable[[float], str],
    marks: Callable[[float], str] | None = None,
) -> Chart:
    def signed(value: float) -> str:
        return f"{'−' if value < 0 else '+'}{words(abs(value))}"

    return Chart(title, waterfall(title, teacher, steps, words, signed, marks or words, lower_is_better=True))


def _worth(teacher: Json, stages: Sequence[Json]) -> Chart:
    name = teacher["metric"]["name"]
    factor, unit, difference = METRICS.get(name, (1.0, "", ""))

    def signed(value: float) -> str:
        return f"{value:+.2f}{difference}".replace("-", "−")

    steps = [
        (_owed(stage, before, weights=True), factor * stage["metric"]["value"])
        for stage, before in _pairs(teacher, stages)
    ]
    first = factor * teacher["metric"]["value"]
    drawn = waterfall(
        name, first, steps, lambda v: f"{v:.2f}{unit}", signed, lambda v: f"{v:.4g}{unit}", lower_is_better=False
    )
    return Chart(f"Accuracy, {name}" if name == "top1" else name, drawn)


def _pairs(teacher: Json, stages: Sequence[Json]) -> list[tuple[Json, Json]]:
    """Each stage and what came before it."""
    return list(zip(stages, [teacher, *stages], strict=False))


def _owed(stage: Json, before: Json, *, weights: bool = False) -> str:
    """The passes that a change is owed to: of size and latency, or of what the ``weights`` decide too."""
    maker = stage["passes"][-1:] if stage["precision"] != before["precision"] else []
    changed = [stage["structure"], *([stage["weights"]] if weights else []), *maker]
    owed = list(dict.fromkeys(kind for kind in changed if kind)) or stage["passes"][-1:]
    return " + ".join(owed)


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
        metric(side["metric"]),
    )
