"""How the student was found."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.figures import count, duration, format_value
from compressor.report.charts.front import front
from compressor.report.sections._section import Chart, Section, cut, table

__all__ = ["search"]


def search(report: Mapping[str, Json]) -> Section | None:
    """Show the last search: its Pareto front, its finalists, and their successive halving if there was one."""
    done = [record for record in report["passes"] if record["metrics"].get("front")]
    if not done:
        return None
    metrics = done[-1]["metrics"]
    finalists = metrics.get("finalists") or []
    text = [
        f"{metrics['evaluated']:,} students of {_either(metrics)} within {metrics['budget']} were scored untrained, "
        f"on {metrics['scored_on']}; {len(finalists)} of them were measured end to end, as {metrics['timed_as']}.",
        f"The score: {metrics['score']}.",
    ]
    charts = []
    if all("score" in line for line in metrics["front"]):
        points = [(line["latency_share_predicted"], line["score"]) for line in metrics["front"]]
        measured = [(line["latency_share_predicted"], line["score"]) for line in finalists]
        chosen = measured[0] if measured else None  # the best comes first
        candidates = [(share, score) for share, score in metrics.get("candidates") or []]
        best = table(
            "Pareto front",
            ("student", "rank", "score", "predicted latency", "parameters", "MACs"),
            (
                (
                    _student(line),
                    str(line["rank"]),
                    f"{line['score']:.3f}",
                    f"{100 * line['latency_share_predicted']:.1f} %",
                    count(line["params"]),
                    count(line["macs"]),
                )
                for line in metrics["front"]
            ),
        )
        svg = front(candidates, points, measured, chosen)
        charts.append(Chart("Score against latency", svg, best))
    if halving := metrics.get("successive_halving"):
        text.append(_halving(halving))
    rows = [
        (
            _student(line),
            "chosen" if line is finalists[0] else "",
            f"{100 * line['latency_share']:.1f} %",
            count(line["bytes"], "B"),
            *_reached(halving, _student(line)),
        )
        for line in finalists
    ]
    columns = (
        "finalist",
        "",
        "latency, of the teacher's",
        "file",
        *(["top1 in successive halving"] if halving else []),
    )
    return Section("search", "The search", tuple(map(cut, text)), tuple(charts), table("finalists", columns, rows))


def _either(metrics: Json) -> str:
    """The families that were searched."""
    *others, last = metrics.get("searched") or [metrics["space"]]
    return f"{', '.join(others)} and {last}" if others else str(last)


def _student(line: Json) -> str:
    """The family and encoding of a student; reports of earlier versions have the encoding alone."""
    return f"{line['space']} {line['student']}" if "space" in line else str(line["student"])


def _halving(halving: Json) -> str:
    changed = (
        f"{halving['after']} came out before {halving['before']}, the first by score."
        if halving["changed"]
        else "the first by score stayed first."
    )
    return (
        f"Successive halving: {duration(halving['seconds'])} of short distillations on {halving['learned_from']}, "
        f"judged on {halving['judged_on']}: {changed}"
    )


def _reached(halving: Json, student: str) -> tuple[str, ...]:
    """The accuracy that a finalist reached in each round."""
    if not halving:
        return ()
    reached = [
        f"{format_value(r['top1'][student], '%')} after {r['steps']:,} steps"
        for r in halving["rounds"]
        if student in r["top1"]
    ]
    return (", then ".join(reached),)
