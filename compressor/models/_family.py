"""What a family of architectures must offer, and what the families share."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar, Protocol, Self

from torch import nn

from compressor.core import InputSpec, Json, UsageError

Shapes = Mapping[str, tuple[int, ...]]
"""The keys of a state dict and the shapes of its tensors."""

SMALL = 64
"""The longest side in pixels of a small input, whose resolution the stems of students keep."""


class Architecture(Protocol):
    """A network's description: a frozen, hashable dataclass whose fields are its JSON-able settings.

    The module that a classifier's ``build`` makes has an ``avgpool`` child that is fed the last feature map
    (N x C x H x W), and ends in one linear classifier. Its ``stages`` is a tuple of the names of
    submodules, in the order that they run, for ``get_submodule``: each gives the last feature map
    (N x C x H x W) of one resolution that blocks work at, and the last of them what ``avgpool`` is
    fed. Scores and losses hook in there. One with ``task = "super-resolution"`` makes images: in place of
    ``avgpool`` and classifier its network names its ``enlarger``, which is fed the last feature map.
    """

    def __hash__(self) -> int: ...

    @property
    def channels(self) -> int:
        """Input channels."""
        ...

    @property
    def outputs(self) -> int:
        """Classes."""
        ...

    def build(self) -> nn.Module:
        """The network, freshly initialised, on torch's default device."""
        ...

    def encode(self) -> dict[str, Json]:
        """What a search space's ``decode`` makes this member from; what may be left out and is the default, is.

        Raises UsageError where no encoding describes this architecture (a teacher may be one of those).
        """
        ...

    def mutated(self, random: random.Random, multiple: int) -> Self:
        """Another member for the same input, one small step away; the same state of ``random`` gives the same.

        All its widths are rounded so that its convolutions have multiples of ``multiple`` (1 to 64) channels.
        """
        ...


class Family(Architecture, Protocol):
    """Architectures of one kind, which teachers are recognised as; its networks are bodies for other heads too.

    Of the module that ``build`` makes, ``features``, called with images, gives the last feature map. Seeds of one
    for super-resolution take a ``scale`` too.

    A family is also a search space: its *members* are the architectures that ``decode`` gives for
    one input and one number of classes. Their sizes are bounded, so every walk of ``mutated`` stays
    in reach of a workstation's memory, and every member on the same grid can be reached by one.
    """

    normalization: ClassVar[str]
    """The preprocessing that the family's published teachers were trained with."""
    input_size: ClassVar[int]
    """The side in pixels of its published teachers' inputs."""
    follows_data: ClassVar[bool]
    """True where the family is trained at the size of its data, if that is 64 pixels at most."""

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

    @classmethod
    def decode(cls, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Self:
        """The member that an encoding such as ``{"depths": [3, 3, 3]}`` describes, for ``outputs`` classes.

        Any input will do. The stem follows it: up to `SMALL` pixels a side it keeps the resolution.
        Raises UsageError naming the key where the encoding is none, or describes more than the space holds.
        """
        ...

    @classmethod
    def seeds(cls, input: InputSpec, outputs: int, multiple: int) -> tuple[Self, ...]:
        """Members to start a search from, rounded as in ``mutated``: the smallest of the space first, then by size.

        The widest and deepest are about the published ones, so some will obey whatever budget can be obeyed.
        """
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


def small(input: InputSpec) -> bool:
    """Whether stems are to keep the resolution."""
    return max(input.height, input.width) <= SMALL


def require(holds: bool, where: str, what: str, hint: str = "correct the architecture's settings") -> None:
    """Refuse settings that describe no network. Raises UsageError."""
    if not holds:
        raise UsageError(f"{where}: {what}", hint=hint)


def initialise(network: nn.Module) -> nn.Module:
    """He initialisation of all convolutions (He et al. 2015, eq. 10, by fan-out); the rest keeps torch's own."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # no values to draw, and slow at that
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
