"""Several runs beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from compressor.core import Json
from compressor.figures import NONE, count, format_metric, milliseconds, scaled
from compressor.report.charts.trade_off import trade_off
from compressor.report.sections._section import Chart, Section, cut, table
from compressor.report.summary import Summary

__all__ = ["compared"]

Runs = Sequence[tuple[str, Mapping[str, Json]]]


def compared(runs: Runs) -> tuple[str, tuple[str, ...], tuple[Section, ...]]:
    """Make a page of named reports: its title, warnings of what does not compare, and its sections."""
    sections = (_figures(runs), _charts(runs), _commands(runs))
    return f"{len(runs)} runs compared", _warnings(runs), tuple(s for s in sections if s is not None)


def _figures(runs: Runs) -> Section:
    rows = []
    for number, (name, report) in enumerate(runs, start=1):
        result, latency = report["result"], report["result"]["latency_ms"]
        size, speed, quality = Summary.of(report).changes
        rows.append(
            (
                f"{number}. {name}",
                report["status"],
                f"{count(result['bytes'], 'B')}\n{size}",
                f"{milliseconds(latency['median'] if latency else None)}\n{speed}",
                f"{format_metric(result['metric'])}\n{quality}",
                count(result["params"]),
                f"{result['family']}\n{result['precision'] or NONE}",
                report["target"],
                report["profile"],
            )
        )
    columns = ("run", "status", "file", "latency", "accuracy", "parameters", "network", "target", "profile")
    text = "Each run against its own teacher, measured together with it."
    return Section("runs", "Results", (text,), table=table("figures of the runs", columns, rows))


def _charts(runs: Runs) -> Section | None:
    """Draw metric against size and against latency, where all runs were judged by the same metric."""
    judged = [(number, report) for number, (_, report) in enumerate(runs, start=1) if report["result"]["metric"]]
    metrics = {(report["result"]["metric"]["name"], report["result"]["metric"]["unit"]) for _, report in judged}
    if len(metrics) != 1:
        return None
    ((metric, unit),) = metrics
    costs: dict[str, tuple[Callable[[Json], float | None], Callable[[float], str]]] = {
        "size of the file": (lambda side: side["bytes"], lambda value: count(value, "B")),
        "latency": (lambda side: side["latency_ms"] and side["latency_ms"]["median"], milliseconds),
    }
    charts = []
    for name, (cost, format_cost) in costs.items():

        def point(side: Json, cost: Callable[[Json], float | None] = cost) -> tuple[float, float] | None:
            spent = cost(side)
            return (spent, scaled(side["metric"]["value"], unit)) if spent and side["metric"] else None

        results = [(str(number), *at) for number, report in judged if (at := point(report["result"]))]
        teachers = list(dict.fromkeys(at for _, report in judged if (at := point(report["teacher"]))))
        if results:
            axis = f"{metric}, {unit}" if unit else metric
            charts.append(Chart(f"{metric} against {name}", trade_off(results, teachers, name, axis, format_cost)))
    text = ("Numbers are those of the table.",)
    return Section("trade-off", f"{metric} against cost", text, tuple(charts)) if charts else None


def _commands(runs: Runs) -> Section:
    facts = tuple((f"{n}. {cut(name)}", cut(Summary.of(report).command)) for n, (name, report) in enumerate(runs, 1))
    return Section("commands", "Commands", facts=facts)


def _warnings(runs: Runs) -> tuple[str, ...]:
    """Say what must not be compared across the runs, and why."""
    metrics = [report["result"]["metric"] for _, report in runs if report["result"]["metric"]]
    timed = [report for _, report in runs if report["result"]["latency_ms"]]
    warnings = []
    if len({(each["name"], each["fingerprint"]) for each in metrics}) > 1:
        warnings.append("the runs were judged on different samples: their accuracies do not compare with each other")
    machines = {(r["target"], r["environment"]["cpu"], r["result"]["latency_ms"]["threads"]) for r in timed}
    if len(machines) > 1:
        warnings.append(
            "the runs were timed for different targets, on different machines or with different numbers of threads: "
            "their milliseconds do not compare with each other"
        )
    return tuple(warnings)
