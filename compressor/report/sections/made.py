"""What was made, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.figures import count
from compressor.report.sections._section import Section, cut, table
from compressor.report.summary import Summary

__all__ = ["again", "made"]


def made(report: Mapping[str, Json]) -> Section:
    """List the bundle's files, and what is left to do."""
    left = Summary.of(report).next
    bundle = report["bundle"]
    if not bundle:
        return Section("bundle", "What was made", (cut(left[:1].upper() + left[1:]),))
    rows = ((file["name"], count(file["bytes"], "B")) for file in bundle["files"])
    files = table("files of the bundle", ("file", "size"), rows)
    words = (cut(f"In {bundle['path']}:"), cut(left[:1].upper() + left[1:]))
    return Section("bundle", "What was made", words, table=files)


def again(report: Mapping[str, Json]) -> Section:
    """Show the command as it was typed."""
    text = "Run it in the same folder, on the same data. Passes that finished are answered from the cache there."
    resolved = "resolved.toml, beside this page, is the same plan with every setting: give it to --profile."
    return Section("again", "How to run it again", (text, resolved), command=Summary.of(report).command)
