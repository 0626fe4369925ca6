"""What rounding the weights of a super-resolution network costs, with nothing trained.

    python benchmarks/rounding.py IMDN_x4.pth set5 [--bits 4]

Convolutions' weights on a symmetric grid of so many bits, a scale for each output channel, activations in float: all of
them, and all but the first and the last, which the profile `super-resolution-4bit` keeps in eight.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.core import InputSpec
from compressor.data import load_data
from compressor.frontend import load_checkpoint
from compressor.preprocessing import NORMALIZATIONS
from compressor.quant.levels import rounded
from compressor.tasks.super_resolution import SuperResolution


def quiet(message: str, done: int, total: int) -> None:
    return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("judged")
    parser.add_argument("--bits", type=int, default=4)
    given = parser.parse_args()
    loaded = load_checkpoint(given.teacher)
    scale = int(loaded.settings["scale"])
    split = load_data(None, evaluate=given.judged).prepare(InputSpec(3, 120, 120), NORMALIZATIONS["unit"], scale)
    print("| weights | PSNR |\n|---|---|")
    for name, edges in (("all", given.bits), ("first and last in 8 bits", 8)):
        network = loaded.build().eval()
        convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
        for module in convolutions:
            bits = edges if module in (convolutions[0], convolutions[-1]) else given.bits
            module.weight.data = rounded(module.weight.detach(), bits, learned=False, bucket=None)

        def session(batch: NDArray[np.float32], network: torch.nn.Module = network) -> NDArray[np.float32]:
            with torch.inference_mode():
                made: NDArray[np.float32] = network(torch.from_numpy(batch)).clamp(0, 1).numpy()
            return made

        metric, _ = SuperResolution().evaluate(session, split.evaluate, 1, quiet)
        print(f"| {name} | {metric.value:.2f} dB |", flush=True)


if __name__ == "__main__":
    main()
