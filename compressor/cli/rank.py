"""``compress rank``: rank untrained students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from compressor.cli._options import Arch, AsJson, InputSizes, Trust, parse_inputs
from compressor.cli._printing import print_json, print_table, show_count, stderr_console
from compressor.core import InputSpec, Json, UsageError

__all__ = ["rank"]


def rank(
    archs: Annotated[
        Path,
        typer.Argument(metavar="ARCHS.json", help="A JSON list: encodings, or your own code as in --arch."),
    ],
    data: Annotated[str, typer.Option(metavar="SOURCE", help="Images to compute the scores on.")],
    space: Annotated[
        str | None, typer.Option(metavar="S", help="The encodings' family: cifar-resnet, shufflenetv2, mobilenetv2 …")
    ] = None,
    input: InputSizes = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="The teacher, for scores that compare with it.")
    ] = None,
    arch: Arch = None,
    score: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another score to print beside the default one.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the images drawn and of initial weights.")] = 0,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Rank untrained students by how accurate they promise to be after distillation; higher is better."""
    from compressor.search.rank import rank as rank_students

    with stderr_console().status("score") as status:
        rows = rank_students(
            archs,
            space,
            data,
            input=_image(input),
            teacher=teacher,
            arch=arch,
            also=score or (),
            seed=seed,
            trust=trust,
            progress=show_count(status),
        )
    if as_json:
        print_json(rows)
        return
    table = [_printed(row) for row in sorted(rows, key=lambda row: -row["scores"]["default"])]
    print_table(table, tuple(table[0]), as_json)


def _image(texts: list[str] | None) -> InputSpec | None:
    """Return the one image that ``--input`` describes. Raises UsageError for anything else."""
    given = parse_inputs(texts)
    if not given:
        return None
    image = given[0].image
    if len(given) > 1 or image is None:
        raise UsageError("networks are ranked on one image each", hint="write --input 3x224x224")
    return image


def _printed(row: Json) -> dict[str, str]:
    """Return a row of the table: the default score, costs, the other scores, the encoding."""
    scores: Json = row["scores"]
    others = {
        name: "-" if value is None else f"{value:.4g}"
        for name, value in scores.items()
        if name not in ("default", "params", "macs")
    }
    costs = {"params": f"{row['params']:,}", "MACs": f"{row['macs']:,}"}
    return {"score": f"{scores['default']:.3f}", **costs, **others, "arch": json.dumps(row["arch"])}
