"""Train the example's teacher: a small CIFAR ResNet on scikit-learn's handwritten digits, some minutes on one core.

Run it from the repository's root: python examples/digits/train_teacher.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import ImageSplit, InputSpec
from compressor.data import Source, load_data
from compressor.models.cifar_resnet import CifarResNet
from compressor.preprocessing import parse_normalization

TEACHER = Path(__file__).with_name("teacher.pt")
ARCHITECTURE = CifarResNet(depths=(2, 2, 1), widths=(16, 32, 64), outputs=10, channels=1)
INPUT = InputSpec(1, 32, 32)
"""The digits are 8 x 8; drawn this large, a network of this size has work that is worth compressing."""
EPOCHS, BATCH, LR, SHIFT = 20, 64, 0.1, 3


def tensors(split: ImageSplit) -> tuple[Tensor, Tensor]:
    """All images (N x 1 x 32 x 32, in [-1, 1]) and labels of a split."""
    images = np.concatenate([feeds["input"] for feeds, _ in split.batches(256)])
    return torch.from_numpy(images), torch.from_numpy(split.labels)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image, moved by a few pixels each way over the dark background."""
    padded = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT), value=-1)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, len(images)), generator=generator).tolist()
    side = images.shape[-1]
    return torch.stack([p[:, d : d + side, r : r + side] for p, d, r in zip(padded, down, right, strict=True)])


def train(images: Tensor, labels: Tensor) -> nn.Module:
    """SGD with momentum, label smoothing and a one-cycle schedule."""
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = ARCHITECTURE.build()
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)[: len(images) // BATCH * BATCH]
        for batch in order.split(BATCH):
            logits = model(shifted(images[batch], generator))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1:2d} of {EPOCHS}: loss {loss.item():.3f}")
    return model.eval()


def main() -> None:
    source = load_data("builtin:digits")
    assert isinstance(source, Source)
    data = source.prepare(INPUT, parse_normalization("symmetric", 1), "input")
    assert data.train is not None
    model = train(*tensors(data.train))
    images, labels = tensors(data.evaluate)
    with torch.inference_mode():
        right = (model(images).argmax(1) == labels).float().mean().item()
    torch.save(model.state_dict(), TEACHER)
    print(f"{right:.2%} right on {len(labels)} held-out digits; {TEACHER.stat().st_size:,} bytes in {TEACHER.name}")


if __name__ == "__main__":
    main()
