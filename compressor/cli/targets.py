"""``compress targets``: list the targets, or explain one."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor.cli._options import AsJson
from compressor.cli._printing import as_plain, print_document, print_table

__all__ = ["targets"]


def targets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A target, or the path of your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the targets, or explain one."""
    from compressor import catalog

    if name is not None:
        print_document(as_plain(catalog.find_target(name)), as_json)
        return
    rows = [as_plain(catalog.find_target(each)) for each in catalog.toml_names("targets")]
    columns = ("name", "title", "backend", "precisions")
    print_table([{column: row[column] for column in columns} for row in rows], columns, as_json)
