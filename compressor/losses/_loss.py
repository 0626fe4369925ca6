"""What a loss is given, and what it must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

NEEDS = ("logits", "features", "labels")
"""All that a loss may say it reads."""

Shapes = tuple[tuple[int, int, int], ...]
"""Channels, height and width of each feature map, in the order of `Outputs.features`."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network gives for one batch of N samples."""

    logits: Tensor
    """N x K scores."""
    features: tuple[Tensor, ...] = ()
    """The feature map after each stage, N x C x H x W; the last is the one before pooling."""

    @property
    def shapes(self) -> Shapes:
        return tuple((f.shape[1], f.shape[2], f.shape[3]) for f in self.features)


class Loss(Protocol):
    """One term of what a training minimises: a frozen dataclass whose fields are its settings."""

    kind: ClassVar[str]
    """The file's name in kebab-case."""
    needs: ClassVar[frozenset[str]]
    """What it reads, of `NEEDS`: only that need be there."""

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        """The mean over the batch, a scalar that gradients flow through.

        ``labels`` are N class numbers; N x K shares of the classes where images are mixed.
        """
        ...


@runtime_checkable
class Adapting(Protocol):
    """A loss with a learned part, which is trained beside the student and dropped after the training."""

    def adapter(self, student: Shapes, teacher: Shapes) -> nn.Module | None:
        """A module from the student's `Outputs` to those that the loss is called with; None where none is needed."""
        ...
