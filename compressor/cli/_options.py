"""Arguments and options that several commands take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.core import GivenInput

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
ModelFile = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint (.pt, .pth, .th, .safetensors) or an .onnx; with --trust a whole module or program.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the code in MODEL with your rights: whole modules, TorchScript, .pt2. Only if you know who made it.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="PKG.MODULE:CALLABLE",
        help="Your own architecture's constructor; with arguments, such as \"timm:create_model('resnet18')\".",
    ),
]
BoardUrl = Annotated[
    str | None,
    typer.Option(
        "--board", metavar="ssh://USER@HOST[:PORT][/PYTHON]", help="Where latency is taken. Default: this machine."
    ),
]
InputSizes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="[NAME=]CxHxW[:TYPE]",
        help="Size of one sample of an input, such as 3x224x224 or tokens=77:int64; once an input.",
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="[-]PKG.MODULE:CALLABLE",
        help="Your own metric of (outputs, targets), by name; - in front: lower is better. Default: the task's.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(metavar="POINTS", help="Largest loss of accuracy, in percentage points (PSNR: in dB)."),
]

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or the folder of a run.")]
TimedPath = Annotated[Path, typer.Argument(metavar="PATH", help="A bundle, a run's folder or an .onnx.")]
Against = Annotated[
    Path | None, typer.Option(metavar="PATH", help="What to compare with: a bundle, a run's folder or an .onnx.")
]
Threads = Annotated[int | None, typer.Option(metavar="N", help="The runtime's threads. Default: the target's.")]
MeasureAgain = Annotated[
    bool, typer.Option("--fresh", help="With --board: measure again what is cached of that board.")
]


def parse_inputs(texts: list[str] | None) -> tuple[GivenInput, ...]:
    """Read every ``--input``. Raises UsageError for anything else."""
    return GivenInput.parse_all(texts or ())
