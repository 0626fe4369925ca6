"""``compress profiles``: list the profiles, or explain one."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor.cli._options import AsJson
from compressor.cli._printing import as_plain, print_document, print_table

__all__ = ["profiles"]


def profiles(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A profile, or the path of your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the profiles, or explain one."""
    from compressor import catalog

    if name is not None:
        print_document(as_plain(catalog.find_profile(name)), as_json)
        return
    found = [catalog.find_profile(each) for each in catalog.toml_names("profiles")]
    rows = [{"name": p.name, "title": p.title, "passes": [spec.kind for spec in p.passes]} for p in found]
    print_table(rows, ("name", "title", "passes"), as_json)
