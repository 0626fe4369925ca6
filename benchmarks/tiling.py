"""What enlarging an image in parts costs against enlarging it whole.

    python benchmarks/tiling.py IMDN_x4.pth photos

Photographs are enlarged whole, and in four parts (IMDN's adaptive cropping) that overlap by so many pixels. Printed are
the parts' PSNR against the whole image's output, the largest difference, and the ratio of the times, taken in turns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean, median
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from compressor import catalog
from compressor.bundle.runner import cropped
from compressor.core import InputSpec, Session, image_signature
from compressor.data import PhotographSource, load_data
from compressor.frontend import load_checkpoint
from compressor.lowering.clip import clip_output
from compressor.lowering.export import export
from compressor.lowering.save import save
from compressor.preprocessing import NORMALIZATIONS, normalize
from compressor.quant.psnr import psnr

INPUT, OPSET = InputSpec(3, 120, 120), 21
OVERLAPS = (0, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("photographs")
    parser.add_argument("--count", type=int, default=8)
    given = parser.parse_args()
    loaded = load_checkpoint(given.teacher)
    factor = int(loaded.settings["scale"])
    signature, sizes = image_signature(INPUT, upscale_factor=factor)
    path = Path(mkdtemp()) / "model.onnx"
    save(clip_output(export(loaded.build().eval(), signature, sizes, OPSET), (0.0, 1.0)), path, "fp32")
    session: Session = catalog.find("backends", "onnxruntime")().open(path, threads=1)
    source = load_data(None, evaluate=given.photographs)
    assert isinstance(source, PhotographSource)
    split = source.prepare(INPUT, NORMALIZATIONS["unit"], signature.input.name, factor).evaluate
    images = [normalize(small[None], NORMALIZATIONS["unit"])[0] for _, small, _ in split.pairs()][: given.count]

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        made: NDArray[np.float32] = session({signature.input.name: batch})[signature.output.name]
        return made

    print("| overlap | PSNR against the whole | largest difference | time against the whole |\n|---|---|---|---|")
    for overlap in OVERLAPS:
        decibels, worst, ratios = [], 0.0, []
        for image in images:
            seconds, made = {}, {}
            for name, most in (("whole", 1 << 30), ("parts", image[0].size - 1)):
                begun = time.perf_counter()
                made[name] = cropped(run, image, factor, 1, overlap, most)
                seconds[name] = time.perf_counter() - begun
            decibels.append(psnr([made["whole"]], [made["parts"]]))
            worst = max(worst, float(np.abs(made["whole"] - made["parts"]).max()))
            ratios.append(seconds["parts"] / seconds["whole"])
        print(f"| {overlap} | {mean(decibels):.1f} dB | {worst:.3f} | {median(ratios):.2f}x |", flush=True)


if __name__ == "__main__":
    main()
