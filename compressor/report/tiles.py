"""The three figures that a page opens with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compressor.core import Json
from compressor.report.summary import Summary, count, metric, milliseconds

__all__ = ["Tile", "tiles"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure of teacher and result, and bars whose lengths are as the figures are, in percent."""

    name: str
    change: str
    better: bool | None
    teacher: str
    result: str
    teacher_share: int
    result_share: int


def tiles(report: Mapping[str, Json]) -> tuple[Tile, ...]:
    """Size, speed and accuracy, in the words of the headline."""
    teacher, result, say = report["teacher"], report["result"], Summary.of(report)
    verdicts = {row.name.partition(",")[0]: row.better for row in say.rows}
    times = [side["latency_ms"]["median"] if side["latency_ms"] else None for side in (teacher, result)]
    worths = [side["metric"]["value"] if side["metric"] else None for side in (teacher, result)]
    name = next((side["metric"]["name"] for side in (result, teacher) if side["metric"]), "accuracy")
    size, speed, quality = say.changes
    return (
        _tile(
            "size",
            size,
            verdicts["file"],
            [teacher["bytes"], result["bytes"]],
            [count(s["bytes"], "B") for s in (teacher, result)],
        ),
        _tile("latency", speed, verdicts["latency"], times, [milliseconds(time) for time in times]),
        _tile(name, quality, verdicts[name], worths, [metric(side["metric"]) for side in (teacher, result)]),
    )


def _tile(name: str, change: str, better: bool | None, values: list[float | None], words: list[str]) -> Tile:
    most = max((value for value in values if value), default=0.0)
    shares = [round(100 * value / most) if value and most > 0 else 0 for value in values]
    return Tile(name, change, better, words[0], words[1], max(0, shares[0]), max(0, shares[1]))
