"""How latencies are spread."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.report.charts.latencies import latencies, medians
from compressor.report.sections._section import Chart, Section, table
from compressor.report.summary import milliseconds

__all__ = ["latency"]

_SHARES = (5, 25, 50, 75, 90, 99)


def latency(report: Mapping[str, Json]) -> Section | None:
    """Every sample of teacher and result, as they came in turns."""
    import numpy as np

    taken = {name: [block for block in blocks if block] for name, blocks in (report["samples_ms"] or {}).items()}
    blocks = {name: kept for name, kept in taken.items() if kept}
    samples = {name: [ms for block in kept for ms in block] for name, kept in blocks.items()}
    if not samples:
        return None
    rows = [
        (f"{share} %", *(milliseconds(float(np.percentile(s, share))) for s in samples.values())) for share in _SHARES
    ]
    figures = table("percentiles of latency", ("faster than this", *samples), rows)
    side = report["result"]["latency_ms"] or report["teacher"]["latency_ms"]
    threads = f"{side['threads']} thread{'' if side['threads'] == 1 else 's'}"
    words = f"Batch 1, {threads}, {side['samples']:,} samples each, teacher and result in turns of random order."
    if report["speedup_interval"]:
        low, high = report["speedup_interval"]
        words += f" The speed-up is {report['speedup']:.2f}, its 90 % bootstrap interval {low:.2f} to {high:.2f}."
    charts = (
        Chart("All samples", latencies(samples), figures),
        Chart("Medians of the blocks, in turn", medians(blocks)),
    )
    return Section("latency", "Latency", (words,), charts)
