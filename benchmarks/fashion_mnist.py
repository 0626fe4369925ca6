"""Somebody else's architecture and data: Fashion-MNIST as a folder of images, and a teacher for it.

    python benchmarks/fashion_mnist.py fashion [--source FOLDER] [--epochs N]
    cd fashion && compress run teacher.pt --arch fashion_net:teacher --data images --input 1x28x28 --target host \\
        --profile balanced

Writes ``images/train/<class>/NNNNN.png`` and ``images/test/...`` (28x28, grey), ``fashion_net.py`` with an
architecture of no known family, and ``teacher.pt`` with its weights. The source is where Debian's package
dataset-fashion-mnist puts the four files.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
NET = '''"""A teacher of no known family: wide plain convolutions, with a shortcut around every pair."""

from torch import nn


class Pair(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )
        self.after = nn.ReLU()

    def forward(self, images):
        return self.after(images + self.body(images))


def teacher():
    def widen(before, after):
        return [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *widen(1, 32), Pair(32), Pair(32), *widen(32, 64), Pair(64), Pair(64), *widen(64, 128), Pair(128),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )
'''


def read(path: Path, header: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)[header:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    # A folder's classes are its names in order.
    order = torch.tensor([sorted(CLASSES).index(name) for name in CLASSES])
    images, labels = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for half, stem in (("train", "train"), ("test", "t10k")):
        pixels = read(options.source / f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        numbers = read(options.source / f"{stem}-labels-idx1-ubyte.gz", 8).astype(np.int64)
        for name in CLASSES:
            (options.folder / "images" / half / name).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(zip(pixels, numbers, strict=True)):
            Image.fromarray(image).save(options.folder / "images" / half / CLASSES[label] / f"{number:05}.png")
        images[half], labels[half] = torch.from_numpy(pixels.copy()), order[torch.from_numpy(numbers)]
    (options.folder / "fashion_net.py").write_text(NET)

    def batch(half: str, rows: torch.Tensor) -> torch.Tensor:
        return (images[half][rows].float()[:, None] / 255 - 0.5) / 0.5

    sys.path.insert(0, str(options.folder))
    torch.manual_seed(0)
    network = importlib.import_module("fashion_net").teacher().to(memory_format=torch.channels_last)
    count = len(images["train"])
    steps = options.epochs * (count // 128)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for step in range(steps):
        if step % (count // 128) == 0:
            shuffled = torch.randperm(count)
        rows = shuffled[(step % (count // 128)) * 128 :][:128]
        given = batch("train", rows)
        given = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, given.flip(3), given)
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(given).float()
        loss = F.cross_entropy(scores, labels["train"][rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        predicted = torch.cat(
            [network(batch("test", rows)).argmax(1) for rows in torch.split(torch.arange(10_000), 500)]
        )
    torch.save(network.to(memory_format=torch.contiguous_format).state_dict(), options.folder / "teacher.pt")
    print(f"teacher: {float((predicted == labels['test']).float().mean()):.2%} of 10,000 test images")


if __name__ == "__main__":
    main()
