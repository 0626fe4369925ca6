"""The three figures that a page opens with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compressor.core import Json
from compressor.figures import count, format_metric, milliseconds
from compressor.report.summary import Summary

__all__ = ["Tile", "tiles"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure of teacher and result, with a bar for each, in percent of the larger of the two."""

    name: str
    change: str
    better: bool | None
    teacher: str
    result: str
    teacher_share: int
    result_share: int


def tiles(report: Mapping[str, Json]) -> tuple[Tile, ...]:
    """Make the tiles of size, latency and quality, in the words of the headline."""
    sides, summary = (report["teacher"], report["result"]), Summary.of(report)
    better = {row.name.partition(",")[0]: row.better for row in summary.rows}
    sizes = [side["bytes"] for side in sides]
    times = [side["latency_ms"]["median"] if side["latency_ms"] else None for side in sides]
    values = [side["metric"]["value"] if side["metric"] else None for side in sides]
    metric = next((side["metric"]["name"] for side in reversed(sides) if side["metric"]), "accuracy")
    size, speed, quality = summary.changes
    return (
        _tile("size", size, better["file"], sizes, [count(each, "B") for each in sizes]),
        _tile("latency", speed, better["latency"], times, [milliseconds(each) for each in times]),
        _tile(metric, quality, better[metric], values, [format_metric(side["metric"]) for side in sides]),
    )


def _tile(name: str, change: str, better: bool | None, values: list[float | None], texts: list[str]) -> Tile:
    most = max((value for value in values if value), default=0.0)
    shares = [round(100 * value / most) if value and most > 0 else 0 for value in values]
    return Tile(name, change, better, texts[0], texts[1], max(0, shares[0]), max(0, shares[1]))
