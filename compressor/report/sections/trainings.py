"""The passes that trained."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.figures import duration, format_value
from compressor.report.charts.training import training
from compressor.report.sections._section import Chart, Section, table

__all__ = ["trainings"]

_CHARTS = 12


def trainings(report: Mapping[str, Json]) -> Section | None:
    """Show the loss of every training; draw the first twelve."""
    done = [(record["kind"], record["metrics"]) for record in report["passes"]]
    trained = [(kind, metrics) for kind, metrics in done if len(metrics.get("curve") or ()) > 1]
    if not trained:
        return None
    left = len(trained) - _CHARTS
    text = [_methods(kind, metrics["methods"]) for kind, metrics in trained if "methods" in metrics]
    text += [_teachers(kind, metrics["teachers"]) for kind, metrics in trained if "teachers" in metrics]
    text += [f"{left} more trainings are in report.json."] if left > 0 else []
    charts = tuple(_chart(kind, metrics) for kind, metrics in trained[:_CHARTS])
    return Section("training", "Training", tuple(text), charts)


def _methods(kind: str, tried: Json) -> str:
    first, last = tried["rounds"][0], tried["rounds"][-1]
    among, taken = f"{len(first['top1'])} methods", duration(tried["seconds"])
    reached = ", ".join(f"{name} {format_value(share, '%')}" for name, share in last["top1"].items())
    return (
        f"{kind}: {tried['chosen']} was chosen among {among} in {taken} of short trainings, judged on "
        f"{tried['judged_on']}: at last {reached}."
    )


def _teachers(kind: str, weights: Json) -> str:
    shares = ", ".join(f"{weight:.2f}" for weight in weights)
    return f"{kind} learned from {len(weights)} teachers, whose answers weighed {shares}."


def _chart(kind: str, metrics: Mapping[str, Json]) -> Chart:
    losses = [term["loss"] for term in metrics["losses"]]
    rows = (
        (f"{point['step']:,}", f"{point['lr']:.3g}", f"{point['loss']:.4f}", *(f"{p:.4f}" for p in point["parts"]))
        for point in metrics["curve"]
    )
    columns = ("step", "learning rate", "loss", *losses)
    title = f"{kind}: {metrics['steps']:,} steps of {metrics['batch']} samples"
    return Chart(title, training(metrics["curve"], losses, kind), table(f"loss of {kind}", columns, rows))
