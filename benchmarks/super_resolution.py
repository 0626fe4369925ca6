"""Super-resolution: what parts of an image cost against the whole, and what a teacher is worth to a student.

    python benchmarks/super_resolution.py parts IMDN_x4.pth photos
    python benchmarks/super_resolution.py students IMDN_x2.pth photos set5 --minutes 30

``parts``: photographs enlarged whole and in four parts (IMDN's adaptive cropping) that overlap by so many pixels: the
parts' PSNR against the whole image's output, the largest difference, and the time of both, interleaved.
``students``: one student, once taught by the teacher's answers and the photographs, once by the photographs alone,
for as long, from the same first weights and on the same patches; and the teacher, all judged on the given pairs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from compressor import catalog
from compressor.bundle.runner import cropped
from compressor.core import InputSpec
from compressor.data import PreparedPhotographs, load_data
from compressor.export import export, guarded, save
from compressor.ingest import ingest
from compressor.losses import objective
from compressor.models.imdn import IMDN
from compressor.preprocessing import NORMALIZATIONS, normalize
from compressor.quant.restoration import decibels
from compressor.scores._probe import untrained
from compressor.tasks.super_resolution import SuperResolution
from compressor.train.distil import Budget, answering, distil
from compressor.train.patches import Patches
from compressor.train.recipe import Recipe

INPUT, OPSET = InputSpec(3, 120, 120), 21
STUDENT = IMDN(16, 5, 4, False, 2, "rtc")
RECIPE = Recipe(optimizer="adam", batch=16, rate=2e-3, momentum=0.9, decay=0.0, warmup=0.05, ema=0.999)


def quiet(message: str, done: int, total: int) -> None:
    return


def session(network: torch.nn.Module) -> Any:
    path = Path(mkdtemp()) / "model.onnx"
    save(guarded(export(network.eval(), INPUT, OPSET, any_size=True)), path, "fp32")
    return catalog.find("backends", "onnxruntime")().open(path, threads=1)


def photographs(source: str, scale: int) -> PreparedPhotographs:
    split = load_data(None, evaluate=source).prepare(INPUT, NORMALIZATIONS["unit"], scale).evaluate
    assert isinstance(split, PreparedPhotographs)
    return split


def parts(teacher: Path, source: str, count: int) -> None:
    network = ingest(teacher).build()
    run, scale = session(network), int(ingest(teacher).settings["scale"])
    images = [normalize(small[None], NORMALIZATIONS["unit"])[0] for _, small, _ in photographs(source, scale).pairs()]
    print("| overlap | PSNR against the whole | largest difference | time against the whole |\n|---|---|---|---|")
    for overlap in (0, 4, 8, 16, 32):
        near, worst, ratios = [], 0.0, []
        for image in images[:count]:
            taken, made = {}, {}
            for name, most in (("whole", 1 << 30), ("parts", image[0].size - 1)):
                begun = time.perf_counter()
                made[name] = cropped(run, image, scale, 1, overlap, most)
                taken[name] = time.perf_counter() - begun
            near.append(decibels([made["whole"]], [made["parts"]]))
            worst = max(worst, float(np.abs(made["whole"] - made["parts"]).max()))
            ratios.append(taken["parts"] / taken["whole"])
        print(f"| {overlap} | {np.mean(near):.1f} dB | {worst:.3f} | {median(ratios):.2f}x |", flush=True)


def students(teacher: Path, source: str, judged: str, minutes: float, kept: Path) -> None:
    network = ingest(teacher).build()
    scale = int(ingest(teacher).settings["scale"])
    judges = photographs(judged, scale)
    taught = Patches(photographs(source, scale), 32, True, 0, kept)
    kept.mkdir(parents=True, exist_ok=True)
    taught.prepare(answering(network, "auto", "cpu", any_size=True), quiet)
    rows = {}
    for name, losses in (
        ("taught", [{"loss": "answers", "weight": 0.5}, {"loss": "pixels", "weight": 0.5}]),
        ("alone", [{"loss": "pixels"}]),
    ):
        student = untrained(STUDENT, 0)
        begun = time.perf_counter()
        steps, curve = distil(
            student, taught, objective(losses), RECIPE, Budget(minutes=minutes), seed=0, device="cpu",
            checkpoint=kept / f"{name}.pt", remember=lambda compute: compute(), progress=quiet,
        )  # fmt: skip
        metric, each = SuperResolution().evaluate(session(student), judges, 1, quiet)
        rows[name] = {
            "psnr": metric.value, "ssim": metric.also.get("ssim"), "each": each.tolist(), "steps": steps,
            "loss": curve[-1]["loss"], "seconds": time.perf_counter() - begun,
        }  # fmt: skip
        print(json.dumps({name: rows[name]}), flush=True)
    metric, _ = SuperResolution().evaluate(session(network), judges, 1, quiet)
    print(json.dumps({"teacher": metric.value, "student": STUDENT.encode(), "params": _params(STUDENT)}))


def _params(architecture: IMDN) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in architecture.build().parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("parts", "students"):
        command = commands.add_parser(name)
        command.add_argument("teacher", type=Path)
        command.add_argument("photographs")
        if name == "parts":
            command.add_argument("--count", type=int, default=8)
        else:
            command.add_argument("judged")
            command.add_argument("--minutes", type=float, default=30.0)
            command.add_argument("--kept", type=Path, default=Path("runs/super-resolution"))
    given = parser.parse_args()
    if given.command == "parts":
        parts(given.teacher, given.photographs, given.count)
    else:
        students(given.teacher, given.photographs, given.judged, given.minutes, given.kept)


if __name__ == "__main__":
    main()
