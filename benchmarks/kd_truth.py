"""Makes ground truth for rank quality: students of two spaces, each distilled, on 16 x 16 CIFAR-10.

    python benchmarks/kd_truth.py CIFAR10 TEACHER [--out benchmarks/kd_truth.json] [--students 16] [--epochs 5]

The data are 10,000 training images at half size; the teacher runs once on each at full size, plain and flipped.
Every student is trained with the same settings: 0.1 CE + 0.9 T^2 KL at T = 4, SGD with a one-cycle schedule, images
flipped and shifted by up to two pixels. Accuracy is that on the 10,000 test images. A student takes about a minute;
those that are in the file already are not trained again.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec
from compressor.data import Source, load_data
from compressor.frontend import load_checkpoint
from compressor.preprocessing import normalize, parse_normalization

IMAGES, BATCH, TEMPERATURE = 10_000, 128, 4.0
WHOLE, HALF = InputSpec(3, 32, 32), InputSpec(3, 16, 16)


def students(count: int) -> list[tuple[str, dict[str, Any]]]:
    """``count`` random members of each space, in turn."""
    generator = random.Random(0)

    def residual() -> dict[str, Any]:
        widths = sorted(8 * generator.randint(1, most) for most in (3, 6, 12))
        return {"depths": [generator.randint(1, 4) for _ in range(3)], "widths": widths}

    def inverted() -> dict[str, Any]:
        groups = [(16, 1), (24, 1), (40, 2), (80, 2), (160, 2)]
        blocks = [
            [generator.choice((1, 2, 3, 4)), 8 * round(c * generator.uniform(0.4, 1.2) / 8), generator.randint(1, 3), s]
            for c, s in groups
        ]
        return {"blocks": blocks, "last": 64 * generator.randint(2, 8)}

    made = [[("cifar-resnet", residual()), ("mobilenetv2", inverted())] for _ in range(count)]
    return [each for pair in made for each in pair]


def prepare(source: str, teacher: Path) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, the teacher's logits (2 x N x K, plain and flipped), test images and labels."""
    data = load_data(source)
    assert isinstance(data, Source)
    assert data.train is not None
    scaling = parse_normalization("imagenet", 3)
    drawn = data.train.sample(IMAGES)
    pixels, labels = data.train.pixels(drawn, WHOLE), data.train.labels[drawn]
    network = load_checkpoint(teacher).build()

    def logits(images: np.ndarray) -> Tensor:
        batch = torch.from_numpy(normalize(np.ascontiguousarray(images), scaling))
        with torch.inference_mode():
            return torch.cat([network(part) for part in batch.split(250)]).clone()

    def half(images: np.ndarray) -> Tensor:
        return F.avg_pool2d(torch.from_numpy(normalize(images, scaling)), 2)

    test = data.evaluate.pixels(None, WHOLE)
    both = torch.stack([logits(pixels), logits(pixels[..., ::-1])])
    return half(pixels), torch.from_numpy(labels), both, half(test), torch.from_numpy(data.evaluate.labels)


def distill(network: nn.Module, images: Tensor, labels: Tensor, soft: Tensor, epochs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(labels) // BATCH)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.2, total_steps=steps, pct_start=0.3)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels) // BATCH * BATCH, BATCH):
            rows = order[start : start + BATCH]
            flipped = torch.rand(BATCH, generator=generator) < 0.5
            x = torch.where(flipped[:, None, None, None], images[rows].flip(3), images[rows])
            down, right = torch.randint(5, (2,), generator=generator).tolist()
            x = F.pad(x, (2, 2, 2, 2))[:, :, down : down + 16, right : right + 16]
            logits, wanted = network(x), soft[flipped.long(), rows]
            likeness = F.kl_div(
                F.log_softmax(logits / TEMPERATURE, 1), F.softmax(wanted / TEMPERATURE, 1), reduction="batchmean"
            )
            loss = 0.1 * F.cross_entropy(logits, labels[rows]) + 0.9 * TEMPERATURE**2 * likeness
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    network.eval()
    with torch.inference_mode():
        predicted = torch.cat([network(part).argmax(1) for part in images.split(500)])
    return float((predicted == labels).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--students", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    done = {(row["space"], json.dumps(row["arch"])) for row in rows}
    images, labels, soft, test, test_labels = prepare(options.data, options.teacher)
    for space, encoding in students(options.students):
        if (space, json.dumps(encoding)) in done:
            continue
        begun = time.perf_counter()
        torch.manual_seed(0)
        network = catalog.find("models", space).decode(encoding, HALF, 10).build()
        distill(network, images, labels, soft, options.epochs, seed=0)
        reached = accuracy(network, test, test_labels)
        seconds = time.perf_counter() - begun
        rows.append({"space": space, "arch": encoding, "accuracy": reached})
        print(f"{space} {encoding}: {reached:.4f} in {seconds:.0f} s", flush=True)
        training = {"images": IMAGES, "input": str(HALF), "epochs": options.epochs, "batch": BATCH}
        options.out.write_text(json.dumps({"training": training, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
