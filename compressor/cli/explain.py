"""``compress explain``: tell what each layer's precision costs and buys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli._options import AsJson
from compressor.cli._printing import print_json, show_progress, stderr_console, stdout_console

__all__ = ["explain"]


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or the bundle in it.")],
    as_json: AsJson = False,
) -> None:
    """Tell which layers run in integers and which in float, why, and what the other precision would cost or buy."""
    from compressor.explain import explain as explain_run
    from compressor.report.explained import print_explained

    with stderr_console().status("explain") as status:
        document = explain_run(run, show_progress(status))
    if as_json:
        print_json(document)
    else:
        print_explained(document, stdout_console())
