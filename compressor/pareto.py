"""Students for several shares of the teacher's latency in one go: a front of speed against accuracy."""

from __future__ import annotations

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
from compressor.train import workers

__all__ = ["Front", "pareto_plans", "run_pareto"]

_SHARED = "shared"
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

    Raises UsageError for what are no shares, beside a latency that is given otherwise, for a profile that searches no
    student, and in several processes; else as `compressor.plan.make_plan`.
    """
    budgets = [Budget.parse(f"latency={share.strip()}") for share in shares.split(",")]
    different = len({each.limit for each in budgets}) == len(budgets) > 1
    if not different or not all(each.relative for each in budgets):
        raise UsageError(f"not shares of a latency: {shares!r}", hint="write two or more, such as --pareto 8%,13%,25%")
    if any(Budget.parse(text).name == "latency" for text in options.budget or ()) or _sets_budget(options):
        raise UsageError("--pareto sets the students' latencies, and so does a budget", hint="leave one of them out")
    if workers.world() > 1:
        raise UsageError("--pareto makes its runs in one process", hint="start it without torchrun")
    plan = make_plan(model, options, trust=trust)
    if not any(each.kind == "search" for each in plan.passes):
        raise UsageError(
            f"--pareto is for profiles that search students, and {plan.profile.name} does not",
            hint="take such a profile: --profile balanced",
        )
    others = tuple(text for text in plan.options.budget or () if Budget.parse(text).name != "latency")
    options = replace(options, profile=options.profile or plan.options.profile or plan.profile.name)
    plans = {}
    for each in budgets:
        limited = replace(options, budget=(each.text, *others))
        plans[each.text.replace("=", "-").rstrip("%")] = make_plan(model, limited, trust=trust, source=plan.source)
    return plans


def _sets_budget(options: Options) -> bool:
    return any(text.partition("=")[0] == "search.budget" for text in options.set or ())


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

    ``begun`` is called with each one's name. What they have in common is made once, and kept in ``shared/``. A budget
    that one misses does not keep the others from running. Raises CompressError as `compressor.pipeline.run` does, and
    BudgetMissed where no student at all was found.
    """
    runs, missed = list[Compressed](), list[str]()
    for name, plan in plans.items():
        begun(name)
        try:
            done = pipeline.run(plan, folder / name, command, watcher, fresh=fresh, shared=folder / _SHARED)
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
