"""Distribution of the latencies."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.figures import milliseconds
from compressor.report.charts.latencies import latencies, medians
from compressor.report.sections._section import Chart, Section, table

__all__ = ["latency"]

_SHARES = (5, 25, 50, 75, 90, 99)


def latency(report: Mapping[str, Json]) -> Section | None:
    """Show every latency sample of teacher and result."""
    import numpy as np

    filled = {name: [block for block in blocks if block] for name, blocks in (report["samples_ms"] or {}).items()}
    blocks = {name: kept for name, kept in filled.items() if kept}
    samples = {name: [ms for block in kept for ms in block] for name, kept in blocks.items()}
    if not samples:
        return None
    rows = [
        (f"{share} %", *(milliseconds(float(np.percentile(s, share))) for s in samples.values())) for share in _SHARES
    ]
    figures = table("percentiles of latency", ("faster than this", *samples), rows)
    side = report["result"]["latency_ms"] or report["teacher"]["latency_ms"]
    threads = f"{side['threads']} thread{'' if side['threads'] == 1 else 's'}"
    text = f"Batch 1, {threads}, {side['samples']:,} samples each; teacher and result interleaved in random order."
    if report["speedup_interval"]:
        low, high = report["speedup_interval"]
        text += f" The speed-up is {report['speedup']:.2f}, its 90 % bootstrap interval {low:.2f} to {high:.2f}."
    charts = (
        Chart("All samples", latencies(samples), figures),
        Chart("Medians of the blocks, in order", medians(blocks)),
    )
    return Section("latency", "Latency", (text,), charts)
