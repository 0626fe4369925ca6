"""A report as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from compressor.core import Json
from compressor.report.comparison import compared
from compressor.report.sections.gains import gains
from compressor.report.sections.latency import latency
from compressor.report.sections.layers import layers
from compressor.report.sections.made import again, made
from compressor.report.sections.passes import passes
from compressor.report.sections.precision import precision
from compressor.report.sections.samples import samples
from compressor.report.sections.search import search
from compressor.report.sections.setting import setting
from compressor.report.sections.trainings import trainings
from compressor.report.summary import Summary, legible
from compressor.report.tiles import tiles

__all__ = ["render_comparison", "render_html"]

_SECTIONS = (gains, search, trainings, precision, layers, latency, samples, passes, setting, made, again)


def render_html(report: Mapping[str, Json]) -> str:
    """Render a ``report.json`` as a page with its style inline, no script and nothing to fetch; escape every value."""
    return _render(
        "report.html",
        summary=Summary.of(report),
        tiles=tiles(report),
        sections=[section for section in (make(report) for make in _SECTIONS) if section is not None],
        version=report["versions"].get("compressor", ""),
    )


def render_comparison(runs: Sequence[tuple[str, Mapping[str, Json]]]) -> str:
    """Render a page that compares several named reports."""
    title, warnings, sections = compared(runs)
    return _render("comparison.html", title=title, warnings=warnings, sections=sections)


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("compressor.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: legible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values).lstrip()
