"""What enlarging an image in parts costs against enlarging it whole.

    python benchmarks/tiling.py IMDN_x4.pth photos

Photographs enlarged whole and in four parts (IMDN's adaptive cropping) that overlap by so many pixels: the parts'
PSNR against the whole image's output, the largest difference, and the time of both, in turns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean, median
from tempfile import mkdtemp

import numpy as np

from compressor import catalog
from compressor.bundle.runner import cropped
from compressor.core import InputSpec
from compressor.data import PreparedPhotographs, load_data
from compressor.lowering.clip import clip_output
from compressor.lowering.export import export
from compressor.lowering.save import save
from compressor.frontend import load_checkpoint
from compressor.preprocessing import NORMALIZATIONS, normalize
from compressor.quant.mixed_precision import decibels

INPUT, OPSET = InputSpec(3, 120, 120), 21
OVERLAPS = (0, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("photographs")
    parser.add_argument("--count", type=int, default=8)
    given = parser.parse_args()
    loaded = load_checkpoint(given.teacher)
    scale = int(loaded.settings["scale"])
    path = Path(mkdtemp()) / "model.onnx"
    save(guarded(export(loaded.build().eval(), INPUT, OPSET, any_size=True)), path, "fp32")
    run = catalog.find("backends", "onnxruntime")().open(path, threads=1)
    split = load_data(None, evaluate=given.photographs).prepare(INPUT, NORMALIZATIONS["unit"], scale).evaluate
    assert isinstance(split, PreparedPhotographs)
    images = [normalize(small[None], NORMALIZATIONS["unit"])[0] for _, small, _ in split.pairs()][: given.count]

    print("| overlap | PSNR against the whole | largest difference | time against the whole |\n|---|---|---|---|")
    for overlap in OVERLAPS:
        near, worst, ratios = [], 0.0, []
        for image in images:
            taken, made = {}, {}
            for name, most in (("whole", 1 << 30), ("parts", image[0].size - 1)):
                begun = time.perf_counter()
                made[name] = cropped(run, image, scale, 1, overlap, most)
                taken[name] = time.perf_counter() - begun
            near.append(decibels([made["whole"]], [made["parts"]]))
            worst = max(worst, float(np.abs(made["whole"] - made["parts"]).max()))
            ratios.append(taken["parts"] / taken["whole"])
        print(f"| {overlap} | {mean(near):.1f} dB | {worst:.3f} | {median(ratios):.2f}x |", flush=True)


if __name__ == "__main__":
    main()
