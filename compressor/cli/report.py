"""``compress report``: write the page of one run, or of several compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli._options import AsJson
from compressor.cli._printing import print_json

__all__ = ["report"]


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or their report.json.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="The page. Default: report.html in the run's folder; for several runs comparison.html, here.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the HTML page of a run again, or a page that compares several runs."""
    from compressor.report.pages import write_pages

    written = write_pages(runs, output)
    if as_json:
        print_json(written)
    else:
        print(written["page"])
