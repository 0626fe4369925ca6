"""A report as one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from compressor.core import Json
from compressor.report.charts import training_curve
from compressor.report.summary import Summary, count


def render_html(report: Mapping[str, Json]) -> str:
    """The page of a ``report.json``: inline style, no script, nothing fetched; every value escaped."""
    environment = Environment(
        loader=PackageLoader("compressor.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = count
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment.get_template("report.html").render(
        report=report, say=Summary.of(report), trainings=list(_trainings(report))
    )


def _trainings(report: Mapping[str, Json]) -> Iterator[tuple[str, Json, Markup]]:
    """Kind, metrics and chart of every pass that trained."""
    for done in report["passes"]:
        metrics = done["metrics"]
        if len(metrics.get("curve", ())) > 1:
            losses = [term["loss"] for term in metrics["losses"]]
            yield done["kind"], metrics, training_curve(metrics["curve"], losses, done["kind"])
