"""What rounding the weights of a super-resolution network costs, with nothing trained.

    python benchmarks/rounding.py IMDN_x4.pth set5 [--bits 4]

Convolutions' weights are rounded to symmetric levels of so many bits, with a scale for each output channel; activations
stay in float. First all weights are rounded so; then the first and the last convolution keep eight bits, as they do in
the profile `super-resolution-4bit`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from compressor.core import InputSpec, image_signature
from compressor.data import PhotographSource, load_data
from compressor.frontend import TorchSession, load_checkpoint
from compressor.preprocessing import NORMALIZATIONS
from compressor.quant.sensitivity import quantize_weight
from compressor.tasks.super_resolution import SuperResolution

INPUT = InputSpec(3, 120, 120)


def quiet(message: str, done: int, total: int) -> None:
    return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("judged")
    parser.add_argument("--bits", type=int, default=4)
    given = parser.parse_args()
    loaded = load_checkpoint(given.teacher)
    factor = int(loaded.settings["scale"])
    signature, _ = image_signature(INPUT, upscale_factor=factor)
    source = load_data(None, evaluate=given.judged)
    assert isinstance(source, PhotographSource)
    split = source.prepare(INPUT, NORMALIZATIONS["unit"], signature.input.name, factor).evaluate
    print("| weights | PSNR |\n|---|---|")
    for name, edges in (("all", given.bits), ("first and last in 8 bits", 8)):
        network = loaded.build().eval()
        convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
        for module in convolutions:
            bits = edges if module in (convolutions[0], convolutions[-1]) else given.bits
            module.weight.data = quantize_weight(module.weight.detach(), bits, learned=False, bucket_size=None)
        metric, _ = SuperResolution(factor).evaluate(TorchSession(network, signature), split, 1, quiet)
        print(f"| {name} | {metric.value:.2f} dB |", flush=True)


if __name__ == "__main__":
    main()
