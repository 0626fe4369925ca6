"""Pieces that the losses on feature maps share."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import UsageError
from compressor.losses._loss import Outputs, Shapes


def stage(outputs: Outputs, index: int, whose: str) -> Tensor:
    """The feature map N x C x H x W of one stage; negative numbers count from the last.

    Raises UsageError where there is no such stage.
    """
    _require(index, len(outputs.features), whose)
    return outputs.features[index]


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both feature maps, average-pooled to the smaller height and width of the two."""
    height, width = (min(student.shape[i], teacher.shape[i]) for i in (2, 3))
    return pooled(student, height, width), pooled(teacher, height, width)


def pooled(features: Tensor, height: int, width: int) -> Tensor:
    """The feature map average-pooled to N x C x ``height`` x ``width``."""
    if features.shape[2:] == (height, width):
        return features
    return F.adaptive_avg_pool2d(features, (height, width))


def unit(vectors: Tensor) -> Tensor:
    """Each vector (the last axis) divided by its length. A vector of zeros stays zero; its gradient is finite."""
    squares = vectors.square().sum(-1, keepdim=True)
    return vectors / torch.where(squares > 0, squares, 1.0).sqrt()


def regressor(index: int, student: Shapes, teacher: Shapes) -> nn.Module | None:
    """A `Regressor` from the student's channels at a stage to the teacher's; None where the counts are equal.

    Raises UsageError where a network has no such stage.
    """
    for shapes, whose in ((student, "student"), (teacher, "teacher")):
        _require(index, len(shapes), whose)
    given, wanted = student[index][0], teacher[index][0]
    return None if given == wanted else Regressor(index, given, wanted)


class Regressor(nn.Module):
    """A learned 1x1 convolution on one stage's feature map (Romero et al. 2015, section 2.2)."""

    def __init__(self, index: int, channels: int, wanted: int) -> None:
        super().__init__()
        self.index = index
        self.project = nn.Conv2d(channels, wanted, 1)

    def forward(self, outputs: Outputs) -> Outputs:
        """The outputs, with the stage's feature map projected to the teacher's channels."""
        features = list(outputs.features)
        features[self.index] = self.project(features[self.index])
        return replace(outputs, features=tuple(features))


def _require(index: int, stages: int, whose: str) -> None:
    if not -stages <= index < stages:
        raise UsageError(
            f"the {whose} has {stages} stages, and the loss reads number {index}",
            hint="count stages from 0, or from the last as -1",
        )
