"""How the student was found."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.figures import count, duration
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
        f"{metrics['evaluated']:,} students of {metrics['space']} within {metrics['budget']} were scored untrained, "
        f"on {metrics['scored_on']}; {len(finalists)} of them were measured end to end, as {metrics['timed_as']}.",
        f"The score: {metrics['score']}.",
    ]
    charts = []
    if all("score" in line for line in metrics["front"]):
        points = [(line["latency_share_predicted"], line["score"]) for line in metrics["front"]]
        measured = [(line["latency_share_predicted"], line["score"]) for line in finalists]
        chosen = next(
            (p for line, p in zip(finalists, measured, strict=True) if line["student"] == metrics["student"]), None
        )
        candidates = [(share, score) for share, score in metrics.get("candidates") or []]
        best = table(
            "Pareto front",
            ("student", "rank", "score", "predicted latency", "parameters", "MACs"),
            (
                (
                    line["student"],
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
    if trials := metrics.get("trials"):
        text.append(_trials(trials))
    rows = [
        (
            line["student"],
            "chosen" if line["student"] == metrics["student"] else "",
            f"{100 * line['latency_share']:.1f} %",
            count(line["bytes"], "B"),
            *_reached(trials, line["student"]),
        )
        for line in finalists
    ]
    columns = ("finalist", "", "latency, of the teacher's", "file", *(["top1 in its trials"] if trials else []))
    return Section("search", "The search", tuple(map(cut, text)), tuple(charts), table("finalists", columns, rows))


def _trials(trials: Json) -> str:
    changed = (
        f"{trials['after']} came before the score's own first, {trials['before']}."
        if trials["changed"]
        else "they left the score's first where it was."
    )
    return (
        f"Trials: {duration(trials['seconds'])} of short distillations on {trials['learned_from']}, "
        f"judged on {trials['judged_on']}: {changed}"
    )


def _reached(trials: Json, student: str) -> tuple[str, ...]:
    """What a finalist reached, round by round."""
    if not trials:
        return ()
    reached = [
        f"{100 * r['top1'][student]:.2f} % after {r['steps']:,} steps" for r in trials["rounds"] if student in r["top1"]
    ]
    return (", then ".join(reached),)
