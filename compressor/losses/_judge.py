"""The module of `compressor.losses.discriminator`."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.losses._loss import Outputs


class Judge(nn.Module):
    """Maps the outputs of student and teacher to the loss, with reversed gradients to the student."""

    def __init__(self, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for given, wanted in pairwise((classes, *widths)):
            layers += [nn.Linear(given, wanted), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        """Return the mean over the batch of both networks, a scalar."""
        answers = F.softmax(student.logits, 1)
        reversed = 2 * answers.detach() - answers
        guesses = self.layers(torch.cat([reversed, F.softmax(teacher.logits.detach(), 1)]))[:, 0]
        truth = torch.cat([torch.zeros_like(answers[:, 0]), torch.ones_like(teacher.logits[:, 0])])
        return F.binary_cross_entropy_with_logits(guesses, truth)
