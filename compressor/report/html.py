"""A report as one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from compressor.core import Json
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
    return environment.get_template("report.html").render(report=report, say=Summary.of(report))
