"""The module of `compressor.losses.exits`: one exit for each stage of the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import UsageError
from compressor.losses._logits import class_numbers
from compressor.losses._loss import Outputs, Shapes


class StageExits(nn.Module):
    """Maps the outputs of student and teacher to the loss."""

    def __init__(self, student: Shapes, classes: int, power: float, temperature: float) -> None:
        super().__init__()
        if not student:
            raise UsageError("exits: the student has no stages to put them at", hint="take losses on the outputs alone")
        self.power, self.temperature = power, temperature
        self.exits = nn.ModuleList(_exit(student[i:], classes) for i in range(len(student)))

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        """Return the mean over the batch and the exits, a scalar."""
        assert labels is not None
        taught = F.softmax(teacher.logits / self.temperature, 1)
        true = F.one_hot(class_numbers(labels), taught.shape[1]).to(taught.dtype)
        wanted = (taught + true) ** self.power - true
        answers = [student.logits, *(leave(map) for leave, map in zip(self.exits, student.features, strict=True))]
        losses = [-(wanted * F.log_softmax(each / self.temperature, 1)).sum(1).mean() for each in answers]
        return torch.stack(losses).mean()


def _exit(shapes: Shapes, classes: int) -> nn.Sequential:
    """Separable convolutions of stride 2 down to the last stage's resolution, a pooling and a linear layer."""
    layers: list[nn.Module] = []
    (channels, height, _), *later = shapes
    for wanted, lower, _ in later:
        if lower < height:
            layers += [
                nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False),
                nn.Conv2d(channels, wanted, 1, bias=False),
                nn.GroupNorm(1, wanted),
                nn.ReLU(),
            ]
            channels, height = wanted, lower
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
