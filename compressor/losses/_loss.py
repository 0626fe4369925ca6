"""The interface of a loss: its inputs, its attributes and its call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

NEEDS = ("logits", "features", "student-features", "labels")
"""The values that `Loss.needs` may hold. A teacher that need not show its own features is not run in every step."""

Shapes = tuple[tuple[int, int, int], ...]
"""Channels, height and width of each feature map, in the order of `Outputs.features`."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """A network's outputs for one batch of N samples."""

    logits: Tensor
    """The network's output: N x K class scores, or N x C x H x W images."""
    features: tuple[Tensor, ...] = ()
    """The feature map after each stage, N x C x H x W; the last is the one before pooling."""
    progress: float = 1.0
    """The share of its training that a student has behind it."""

    @property
    def shapes(self) -> Shapes:
        return tuple((f.shape[1], f.shape[2], f.shape[3]) for f in self.features)


class Loss(Protocol):
    """One term of a training's objective: a frozen dataclass whose fields are its settings.

    A loss that compares real values (pixels) instead of class scores says so with
    ``regression: ClassVar[bool] = True``. One that reads the scores of all classes, and not the highest of many, as
    they are stored, says so with ``whole``, true or false.
    """

    kind: ClassVar[str]
    """The file's name in kebab-case."""
    needs: ClassVar[frozenset[str]]
    """The inputs that it reads, out of `NEEDS`; the others may be left out."""

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        """The mean over the batch, a scalar that gradients flow through.

        ``labels`` are N class numbers, N x K class probabilities where images are mixed (mixup), or, for a
        regression loss, the true images N x C x H x W.
        """
        ...


@runtime_checkable
class Adapting(Protocol):
    """A loss with learned parameters, which are trained beside the student and dropped after the training."""

    def adapter(self, student: Shapes, teacher: Shapes) -> nn.Module | None:
        """A module that maps the student's `Outputs` to those that the loss is called with; None if none is needed."""
        ...


@runtime_checkable
class Learned(Protocol):
    """A loss that a module computes: what it learns, or remembers from step to step, is a part of the training's state.

    It has the attributes of a `Loss` and no call.
    """

    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    def module(self, student: Shapes, classes: int) -> nn.Module:
        """Make the module that maps the student's `Outputs`, the teacher's and the labels to the mean over the batch.

        It is trained beside the student, and dropped after the training.
        """
        ...
