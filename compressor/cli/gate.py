"""``compress gate``: judge a model by limits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from compressor.cli._options import (
    Against,
    AsJson,
    BoardUrl,
    InputSizes,
    MaxDrop,
    MeasureAgain,
    Metric,
    Threads,
    TimedPath,
    parse_inputs,
)
from compressor.cli._printing import print_json, show_progress, stderr_console, stdout_console

__all__ = ["gate"]


def gate(
    path: TimedPath,
    against: Against = None,
    evaluate: Annotated[
        str | None, typer.Option("--eval", metavar="SOURCE", help="Samples to evaluate both on, for --max-drop.")
    ] = None,
    metric: Metric = None,
    max_latency: Annotated[
        str | None, typer.Option(metavar="5ms", help="Limit on the latency at --percentile.")
    ] = None,
    percentile: Annotated[
        float | None, typer.Option(metavar="P", help="The percentile of latency that is limited. Default: 90.")
    ] = None,
    max_regression: Annotated[
        str | None, typer.Option(metavar="5%", help="How much slower than --against it may be.")
    ] = None,
    max_drop: MaxDrop = None,
    max_bytes: Annotated[str | None, typer.Option(metavar="1MB", help="Limit on the size of the model file.")] = None,
    threads: Threads = None,
    board: BoardUrl = None,
    input: InputSizes = None,
    fresh: MeasureAgain = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as Markdown.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Annotate the workflow run and write its summary.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge a model by limits. Exit code 0: all kept; 3: one missed; 4: inconclusive, or the device changed."""
    from compressor.bench.compare import Bench
    from compressor.bench.gate import Limits
    from compressor.bench.gate import gate as judge
    from compressor.report.gated import publish, verdict

    limits = Limits.parse(max_latency, percentile, max_regression, max_drop, max_bytes)
    with stderr_console().status("reading the models") as status:
        comparison = Bench.of(path, against, inputs=parse_inputs(input), threads=threads, board=board, fresh=fresh)
        document = judge(comparison, limits, evaluate, show_progress(status), metric=metric)
    for line in publish(document, junit=junit, markdown=markdown, github=github):
        print(line, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json(document)
    else:
        from compressor.report.measured import print_gate

        print_gate(document, stdout_console())
    if (missed := verdict(document)) is not None:
        raise missed
