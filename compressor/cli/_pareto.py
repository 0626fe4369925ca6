"""``compress run --pareto``: a front of students."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.cli._checked import checked
from compressor.cli._printing import print_document, print_json, stderr_console, stdout_console, watch_run

if TYPE_CHECKING:
    from compressor.options import Options

__all__ = ["run_front"]


def run_front(
    model: Path,
    options: Options,
    shares: str,
    output: Path | None,
    *,
    trust: bool,
    fresh: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a plan for each share and print what came of them. Raises BudgetMissed where some missed a limit."""
    from compressor import pipeline
    from compressor.pareto import pareto_plans, run_pareto
    from compressor.report.console import print_summary

    plans = pareto_plans(model, options, shares, trust=trust)
    plan = next(iter(plans.values()))
    folder = output or plan.folder.with_name(f"{plan.folder.name}-front")
    if dry_run:
        documents = {
            name: checked(each, pipeline.check(each, folder / name, fresh=fresh), folder / name)
            for name, each in plans.items()
        }
        print_document(documents, as_json)
        return
    console = stderr_console()
    with console.status("reading the model") as status:
        command, watcher = ["compress", *sys.argv[1:]], watch_run(console, status)
        front = run_pareto(plans, folder, command, watcher, lambda name: console.print(f"== {name}"), fresh=fresh)
    if as_json:
        print_json(front.page)
    else:
        for done in front.runs:
            print_summary(done.report, stdout_console())
        if len(front.runs) > 1:
            stdout_console().print(f"compared in {front.page['page']}")
    if front.missed is not None:
        raise front.missed
