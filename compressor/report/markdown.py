"""A gate's verdict as Markdown: for a step summary, a comment on a merge request, a file."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.figures import NONE, milliseconds

__all__ = ["SIGNS", "markdown"]

SIGNS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "invalid": "⚠️"}


def markdown(document: Mapping[str, Json]) -> str:
    """Render the verdict, a table of the limits, and where they were measured."""
    verdict, name = document["verdict"], document["models"]["candidate"]["path"]
    lines = [f"### {SIGNS[verdict]} compress gate: {verdict}, {_code(name)}", ""]
    lines += ["| limit | verdict | |", "|---|---|---|"]
    for check in document["checks"]:
        lines.append(
            f"| {_cell(check['name'])} | {SIGNS[check['verdict']]} {check['verdict']} | {_cell(check['why'])} |"
        )
    lines.append("")
    if "runtime" in document:
        lines += ["| model | median | p90 | p99 | bytes |", "|---|---|---|---|---|"]
        for part, model in document["models"].items():
            figures = model["latency_ms"]
            cells = [milliseconds(figures[each]) for each in ("median", "p90", "p99")]
            lines.append(f"| {part} {_code(model['path'])} | {' | '.join(cells)} | {model['bytes']:,} |")
        lines += ["", *_where(document)]
    return "\n".join(lines) + "\n"


def _where(document: Mapping[str, Json]) -> list[str]:
    device, board = document["device"], document["board"]
    samples = document["models"]["candidate"]["latency_ms"]["samples"]
    facts = [
        _cell(device["board"] or device["cpu"]) + (f" ({_code(board)})" if board else ""),
        _cell(document["runtime"]),
        f"{document['threads']} thread{'s' if document['threads'] > 1 else ''}",
        f"{samples:,} samples a model" + (", after the one extension" if document["extended"] else ""),
    ]
    if document["cached"]:
        facts.append(f"measured {document['cached']}, from the cache")
    if document["state"]["throttled"]:
        facts.append("the device throttled")
    return [" · ".join(facts)]


def _code(text: object) -> str:
    return f"`{_cell(text).replace('`', NONE)}`"


def _cell(text: object) -> str:
    """Keep a text on one line, without ending the cell or starting a tag."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text))
    return shown.replace("|", "\\|").replace("<", "&lt;")
