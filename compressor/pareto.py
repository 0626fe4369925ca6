"""Students for several shares of the teacher's latency in one go: a front of speed against accuracy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressor import pipeline
from compressor.budgets import Budget
from compressor.core import BudgetMissed, Json, UsageError
from compressor.options import Options
from compressor.pipeline import Compressed, Watcher
from compressor.plan import Plan, make_plan
from compressor.report.pages import write_pages

__all__ = ["Front", "pareto_plans", "run_pareto"]

SHARED = "shared"
"""The folder for what all runs of a front need: the teacher's answers, its normalisation, timed blocks."""


@dataclass(frozen=True)
class Front:
    """The runs that ended with a student, and the page that compares them."""

    runs: tuple[Compressed, ...]
    page: Json
    """``{page, runs: [{run, status, headline}]}``."""
    missed: BudgetMissed | None
    """The shortfalls, where a share of the latency or another limit was missed."""


def pareto_plans(model: Path, options: Options, shares: str, *, trust: bool) -> dict[str, Plan]:
    """Return the plan for each share of ``8%,13%,25%``, under the name of its folder.

    Raises UsageError for what are no shares, beside a latency that is given otherwise, and for a profile that
    searches no student; else as `compressor.plan.make_plan`.
    """
    latencies = [f"latency={share.strip()}" for share in shares.split(",")]
    budgets = [Budget.parse(text) for text in latencies]
    if not all(each.relative for each in budgets) or len({each.limit for each in budgets}) < 2:
        raise UsageError(f"not shares of a latency: {shares!r}", hint="write two or more, such as --pareto 8%,13%,25%")
    others = tuple(options.budget or ())
    if any(Budget.parse(text).name == "latency" for text in others):
        raise UsageError("--pareto sets the students' latencies, and so does --budget", hint="leave one of them out")
    plans = {
        f"latency-{100 * each.limit:g}": make_plan(
            model, replace(options, budget=(each.text, *others)), trust=trust
        )
        for each in budgets
    }  # fmt: skip
    plan = next(iter(plans.values()))
    if not any(each.kind == "search" for each in plan.passes):
        raise UsageError(
            f"--pareto is for profiles that search students, and {plan.profile.name} does not",
            hint="take such a profile: --profile balanced",
        )
    return plans


def run_pareto(
    plans: Mapping[str, Plan],
    folder: Path,
    command: Sequence[str],
    watcher: Watcher,
    begun: Callable[[str], None],
    *,
    fresh: bool = False,
) -> Front:
    """Run each plan in a folder of its own below ``folder``, and write the page that compares the results.

    ``begun`` is called with each one's name. What they have in common is made once. A budget that one misses does not
    keep the others from running. Raises CompressError as `compressor.pipeline.run` does, and BudgetMissed where no
    student at all was found.
    """
    shared = folder / SHARED
    if fresh:
        shutil.rmtree(shared, ignore_errors=True)
    runs, missed = list[Compressed](), list[str]()
    for name, plan in plans.items():
        begun(name)
        try:
            done = pipeline.run(plan, folder / name, command, watcher, fresh=fresh, shared=shared)
        except BudgetMissed as error:
            missed.append(f"{name}: {error.what}")
            continue
        runs.append(done)
        if done.missed is not None:
            missed.append(f"{name}: {done.missed.what}")
    shortfall = BudgetMissed("; ".join(missed), hint="loosen these, or leave them out") if missed else None
    if not runs:
        assert shortfall is not None
        raise shortfall
    page = write_pages([run.folder for run in runs], folder / "comparison.html")
    return Front(tuple(runs), page, shortfall)
