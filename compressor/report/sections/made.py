"""What was made, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.report.sections._section import Section, cut, table
from compressor.report.summary import Summary, count

__all__ = ["again", "made"]


def made(report: Mapping[str, Json]) -> Section:
    """The bundle's files, and what is left to do."""
    left = Summary.of(report).next
    bundle = report["bundle"]
    if not bundle:
        return Section("bundle", "What was made", (cut(left[:1].upper() + left[1:]),))
    rows = ((file["name"], count(file["bytes"], "B")) for file in bundle["files"])
    files = table("files of the bundle", ("file", "size"), rows)
    words = (cut(f"In {bundle['path']}:"), cut(left[:1].upper() + left[1:]))
    return Section("bundle", "What was made", words, table=files)


def again(report: Mapping[str, Json]) -> Section:
    """The command as it was typed."""
    words = "In the same folder, on the same data; what finished passes left there is taken from it."
    resolved = "resolved.toml, beside this page, is the same plan with everything spelled out: --profile takes it."
    return Section("again", "How to run it again", (words, resolved), command=Summary.of(report).command)
