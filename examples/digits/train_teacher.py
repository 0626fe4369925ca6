"""Train the example's teacher: a small CIFAR ResNet on scikit-learn's handwritten digits, in a minute on one core.

Run it from the repository's root: python examples/digits/train_teacher.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from compressor.models.cifar_resnet import CifarResNet

TEACHER = Path(__file__).with_name("teacher.pt")
ARCHITECTURE = CifarResNet(depths=(2, 2, 2), widths=(12, 24, 48), outputs=10, channels=1)
EPOCHS, BATCH, RATE = 40, 64, 0.1


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N x 1 x 8 x 8, in [-1, 1]) and labels to train on, then those held out.

    8-bit pixels and the split are those of ``builtin:digits``, so `compress` judges on images unseen here.
    """
    x, y = load_digits(return_X_y=True)
    pixels = np.round(x * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    train, held_out = train_test_split(np.arange(len(y)), test_size=0.2, random_state=0, stratify=y)
    images, labels = (torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5, torch.from_numpy(y)
    return images[train], labels[train], images[held_out], labels[held_out]


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to a pixel each way over the dark ground."""
    padded = F.pad(images, (1, 1, 1, 1), value=-1)
    down, right = torch.randint(0, 3, (2, len(images)), generator=generator).tolist()
    return torch.stack([p[:, d : d + 8, r : r + 8] for p, d, r in zip(padded, down, right, strict=True)])


def train(images: Tensor, labels: Tensor) -> nn.Module:
    """SGD with momentum, label smoothing and a one-cycle rate."""
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = ARCHITECTURE.build()
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)[: len(images) // BATCH * BATCH]
        for batch in order.view(-1, BATCH):
            logits = model(shifted(images[batch], generator))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS}  loss {loss.item():.3f}")
    return model.eval()


def main() -> None:
    images, labels, held_images, held_labels = digits()
    model = train(images, labels)
    with torch.no_grad():
        accuracy = (model(held_images).argmax(1) == held_labels).float().mean().item()
    torch.save(model.state_dict(), TEACHER)
    print(f"{accuracy:.2%} of {len(held_labels)} held-out digits; {TEACHER}, {TEACHER.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
