"""Single samples through teacher and result, laid out as their task says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compressor.core import Json
from compressor.report.sections._section import Picture, Section, Table, cut, picture, table

__all__ = ["samples"]

_SHOWN = 24
_BYTES = 900_000
"""Size of all images together."""
_NAME = 40
"""Characters of a label or a file's name."""

_MARKS = {True: ("good", "✓ "), False: ("bad", "✗ "), None: ("", "")}


def samples(report: Mapping[str, Json]) -> Section | None:
    """Show the report's ``samples``: images with their captions, and a line for each thing said of them."""
    found = report["samples"]
    if not found or not found["shown"]:
        return None
    return Section(
        "samples",
        cut(found["title"]),
        (cut(found["text"]),),
        table=_facts(found["facts"]),
        pictures=_within(map(_picture, found["shown"][:_SHOWN])),
        layout=found["layout"],
    )


def _facts(facts: Json) -> Table | None:
    rows = ((fact["name"], f"{fact['value']:,}", _share(fact["value"], fact["of"])) for fact in facts)
    return table("all samples", ("samples", "number", "share"), rows) if facts else None


def _share(number: int, total: int) -> str:
    return f"{100 * number / total:.2f} %" if total else ""


def _picture(sample: Json) -> Picture:
    name = _short(sample["name"])
    sources = [(picture(image["png"]), _short(image["caption"])) for image in sample["images"]]
    images = tuple(
        (source, f"{name}: {caption}" if caption else f"a sample of {name}", caption)
        for source, caption in sources
        if source is not None
    )
    lines = [("", name)]
    for line in sample["lines"]:
        style, mark = _MARKS[line["good"]]
        lines.append((style, f"{mark}{_short(line['name'])}: {_short(line['text'])}"))
    return Picture(images, tuple(lines))


def _short(text: str) -> str:
    return text if len(text) <= _NAME else f"{text[: _NAME - 1]}…"


def _within(pictures: Iterable[Picture]) -> tuple[Picture, ...]:
    """Keep as many as there is room for on the page."""
    kept, size = [], 0
    for each in pictures:
        size += sum(len(source) for source, _, _ in each.images)
        if size > _BYTES:
            break
        kept.append(each)
    return tuple(kept)
