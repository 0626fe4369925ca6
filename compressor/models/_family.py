"""What a family of architectures must offer, and what the families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, Self

from torch import nn

from compressor.core import UsageError

Shapes = Mapping[str, tuple[int, ...]]
"""The keys of a state dict and the shapes of its tensors."""


class Family(Protocol):
    """An architecture's encoding: a frozen dataclass whose fields are its JSON-able settings.

    The module that ``build`` makes has an ``avgpool`` child that is fed the last feature map
    (N x C x H x W), and ends in one linear classifier: what the search's scores hook into.
    """

    normalization: ClassVar[str]
    """The preprocessing that the family's published teachers were trained with."""
    input_size: ClassVar[int]
    """The side in pixels of its published teachers' inputs."""
    follows_data: ClassVar[bool]
    """True where the family is trained at the size of its data, if that is 64 pixels at most."""

    @property
    def channels(self) -> int:
        """Input channels."""
        ...

    @property
    def outputs(self) -> int:
        """Classes."""
        ...

    @classmethod
    def rename(cls, key: str) -> str:
        """The canonical spelling of a state-dict key found in the wild."""
        ...

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        """The architecture whose state dict looks like this one; None where it is another family's.

        A look is enough: whoever asks compares every key and shape with those of ``build()``.
        """
        ...

    def build(self) -> nn.Module:
        """The network, freshly initialised, on torch's default device."""
        ...


def kernel(shapes: Shapes, layer: str) -> tuple[int, int, int, int] | None:
    """A convolution's weight shape (out, in / groups, height, width); None where ``layer`` is not one."""
    shape = shapes.get(f"{layer}.weight", ())
    return (shape[0], shape[1], shape[2], shape[3]) if len(shape) == 4 and min(shape) > 0 else None


def classes(shapes: Shapes, layer: str) -> int | None:
    """The rows of a linear layer's weight; None where ``layer`` is not one."""
    shape = shapes.get(f"{layer}.weight", ())
    return shape[0] if len(shape) == 2 and min(shape) > 0 else None


def count(shapes: Shapes, pattern: str, start: int = 0) -> int:
    """How many of the numbers from ``start`` on, without a gap, make a key of ``pattern``, such as ``layer{}.0.w``."""
    n = 0
    while pattern.format(start + n) in shapes:
        n += 1
    return n


def require(holds: bool, where: str, what: str) -> None:
    """Refuse an encoding that describes no network. Raises UsageError."""
    if not holds:
        raise UsageError(f"{where}: {what}", mend="correct the architecture's settings")


def initialise(network: nn.Module) -> nn.Module:
    """He initialisation of all convolutions (He et al. 2015, eq. 10, by fan-out); the rest keeps torch's own."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
