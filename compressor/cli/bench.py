"""``compress bench``: time a model, alone or beside another."""

from __future__ import annotations

from compressor.cli._options import (
    Against,
    AsJson,
    BoardUrl,
    InputSizes,
    MeasureAgain,
    Threads,
    TimedPath,
    parse_inputs,
)
from compressor.cli._printing import print_json, show_progress, stderr_console, stdout_console

__all__ = ["bench"]


def bench(
    path: TimedPath,
    against: Against = None,
    threads: Threads = None,
    board: BoardUrl = None,
    input: InputSizes = None,
    fresh: MeasureAgain = False,
    as_json: AsJson = False,
) -> None:
    """Time a model, alone or interleaved with another, and tell which differences the device can resolve."""
    from compressor.bench.compare import Bench
    from compressor.bench.compare import bench as measure

    with stderr_console().status("reading the models") as status:
        comparison = Bench.of(path, against, inputs=parse_inputs(input), threads=threads, board=board, fresh=fresh)
        document = measure(comparison, show_progress(status))
    if as_json:
        print_json(document)
        return
    from compressor.report.measured import print_bench

    print_bench(document, stdout_console())
