"""``compress run``: compress a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.cli._checked import checked
from compressor.cli._options import Arch, AsJson, BoardUrl, InputSizes, MaxDrop, Metric, ModelFile, Trust
from compressor.cli._pareto import run_front
from compressor.cli._printing import print_document, print_json, stderr_console, stdout_console, watch_run

if TYPE_CHECKING:
    from compressor.plan import Plan

__all__ = ["run"]

_Target = Annotated[str | None, typer.Option(metavar="T", help="Where it will run: see `compress targets`.")]
_Profile = Annotated[str | None, typer.Option(metavar="P", help="How to compress: see `compress profiles`.")]
_Teacher = Annotated[
    list[Path] | None,
    typer.Option(metavar="MODEL", help="A further teacher, a checkpoint or an ONNX file: students learn from all."),
]
_Data = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="Images (folder, zip), arrays (.npz, a folder), builtin:digits or PKG.MODULE:CALLABLE.",
    ),
]
_Evaluate = Annotated[
    str | None,
    typer.Option(
        "--eval", metavar="SOURCE", help="Samples to evaluate on. Default: the test half of --data, or a part held out."
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="The run's folder. Default: runs/MODEL-TARGET-PROFILE."),
]
_Normalize = Annotated[
    str | None,
    typer.Option(
        metavar="N", help="imagenet, cifar10, unit, symmetric, raw or MEAN/STD. Default: found out with the data."
    ),
]
_Channels = Annotated[
    str | None, typer.Option(metavar="rgb|bgr", help="Order of colours that the network takes. Default: rgb.")
]
_Layout = Annotated[
    str | None, typer.Option(metavar="nchw|nhwc", help="Layout of the network's image input. Default: nchw.")
]
_Task = Annotated[
    str | None,
    typer.Option(
        metavar="K",
        help="classification, segmentation, super-resolution or generic. Default: found by data and network.",
    ),
]
_Budget = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=LIMIT", help="latency=25%, latency=5ms, params=200k, macs=20M, bytes=500k."),
]
_Pareto = Annotated[
    str | None, typer.Option(metavar="SHARES", help="8%,13%,25%: a student for each share of the latency, compared.")
]
_Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="PASS.FIELD=VALUE", help="Change a setting of the profile.")
]
_Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of all random draws. Default: 0.")]
_Device = Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Where training happens. Default: cpu.")]
_Fresh = Annotated[bool, typer.Option("--fresh", help="Start over in a folder that has a run.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Do every check that a run does first, and stop.")]


def run(
    model: ModelFile,
    target: _Target = None,
    profile: _Profile = None,
    arch: Arch = None,
    teacher: _Teacher = None,
    data: _Data = None,
    evaluate: _Evaluate = None,
    output: _Output = None,
    input: InputSizes = None,
    normalize: _Normalize = None,
    channels: _Channels = None,
    layout: _Layout = None,
    task: _Task = None,
    metric: Metric = None,
    budget: _Budget = None,
    pareto: _Pareto = None,
    max_drop: MaxDrop = None,
    set: _Set = None,
    seed: _Seed = None,
    device: _Device = None,
    board: BoardUrl = None,
    trust: Trust = False,
    fresh: _Fresh = False,
    dry_run: _DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compress MODEL for a target: measured, verified, bundled."""
    from compressor.options import Options
    from compressor.plan import make_plan

    options = Options(
        target, profile, arch, tuple(map(str, teacher)) if teacher else None, data, evaluate,
        tuple(input) if input else None, normalize, channels, layout, task, metric, tuple(budget) if budget else None,
        max_drop, tuple(set) if set else None, seed, device, board,
    )  # fmt: skip
    if pareto is not None:
        run_front(model, options, pareto, output, trust=trust, fresh=fresh, dry_run=dry_run, as_json=as_json)
        return
    plan = make_plan(model, options, trust=trust)
    _run(plan, output or plan.folder, fresh=fresh, dry_run=dry_run, as_json=as_json)


def _run(plan: Plan, folder: Path, *, fresh: bool, dry_run: bool, as_json: bool) -> None:
    from compressor import pipeline
    from compressor.train import workers

    if dry_run:
        print_document(checked(plan, pipeline.check(plan, folder, fresh=fresh), folder), as_json)
        return

    from compressor.report.console import print_summary

    console = stderr_console()
    with console.status("reading the model") as status:
        command = ["compress", *sys.argv[1:]]
        compressed = pipeline.run(plan, folder, command, watch_run(console, status), fresh=fresh)
    if not workers.is_main_process():
        return
    if as_json:
        print_json(compressed.report)
    else:
        print_summary(compressed.report, stdout_console())
    if compressed.missed is not None:
        raise compressed.missed
