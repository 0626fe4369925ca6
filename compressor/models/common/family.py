"""The protocol of a family of architectures, and helpers that the families share."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar, Protocol, Self

import torch
from torch import nn

from compressor.core import InputSpec, Json, UsageError

Shapes = Mapping[str, tuple[int, ...]]
"""The keys of a state dict and the shapes of its tensors."""

SMALL = 64
"""The longest side in pixels of a small input. The stem of a student keeps the resolution of a small input."""


class Buildable(Protocol):
    """What makes a network, the same one every time: all that the scores see of a candidate. Hashable."""

    def __hash__(self) -> int: ...

    def build(self) -> nn.Module:
        """Make the network, freshly initialised."""
        ...


class Architecture(Buildable, Protocol):
    """A network's description: a frozen, hashable dataclass whose fields are its settings, as JSON knows them.

    The network that ``build`` makes has three things besides ``forward``, which scores and losses rely on:

    - ``stages``: the names of submodules (for ``get_submodule``) in the order that they run. Each returns the last
      feature map (N x C x H x W) of one resolution. The last one's map is the *last feature map*.
    - of a classifier, the child ``avgpool``, whose input is the last feature map, and one linear layer at the end;
      of a network that makes images, the attribute ``enlarger``: the name of the submodule whose input is the last
      feature map.
    - ``parts()``: the network as a chain of modules, each of which takes what the one before it returns.
      The latency table times them.

    A submodule that is trained in another form than it is deployed in (parallel branches that one convolution
    replaces) has a method ``deployed()``: see `compressor.models.common.deployed`.
    """

    @property
    def channels(self) -> int:
        """The number of input channels."""
        ...

    @property
    def outputs(self) -> int:
        """The number of classes; of a network that makes images, their channels."""
        ...

    def build(self) -> nn.Module:
        """Make the network, freshly initialised, on torch's default device."""
        ...

    def encode(self) -> dict[str, Json]:
        """Return the encoding that ``decode`` makes this architecture from, without keys that have their default.

        Raises UsageError where no encoding describes this architecture, which may be a teacher's.
        """
        ...

    def mutated(self, random: random.Random, multiple: int) -> Self:
        """Return another member of the search space for the same input, one small step away.

        Its widths are rounded so that the channels of its convolutions are multiples of ``multiple`` (1 to 64).
        The same state of ``random`` gives the same member.
        """
        ...


class Family(Architecture, Protocol):
    """Architectures of one kind: a teacher is recognised as one of them, and students are searched among them.

    The network of a classifier has ``features``, which maps images to the last feature map, so that other heads can
    be put on it. The architecture of a network that makes images has an ``upscale_factor``, which ``seeds`` takes too.

    The *search space* of a family is what ``seeds`` and ``mutated`` reach for one input and one number of classes.
    Its widths and depths are bounded by the family, and every member on the same grid is reached from every other.
    Encodings are not bounded by it: ``decode`` takes any network of the family that fits into memory.
    """

    task: ClassVar[str]
    """The task of the family's networks: a file of ``tasks/``, as `compressor.core.Task` names its ``kind``."""
    normalization: ClassVar[str]
    """The name of the preprocessing that the family's published networks were trained with."""
    input_size: ClassVar[int]
    """The side in pixels of the published networks' inputs."""
    follows_data: ClassVar[bool]
    """Whether the family is trained at the size of its data, where that is at most 64 pixels a side."""

    @classmethod
    def rename(cls, key: str) -> str:
        """Return the family's own spelling of a state-dict key as public checkpoints spell it."""
        ...

    @classmethod
    def recognise(cls, shapes: Shapes) -> Self | None:
        """Return the architecture whose state dict looks like this one, or None.

        A rough look is enough: the caller compares every key and shape with those of ``build()``.
        """
        ...

    @classmethod
    def decode(cls, encoding: Mapping[str, Json], input: InputSpec, outputs: int) -> Self:
        """Return the architecture that an encoding such as ``{"depths": [3, 3, 3]}`` describes.

        ``input`` is of any size; up to `SMALL` pixels a side the stem keeps the resolution.
        Raises UsageError naming the key that is missing, unknown or out of range.
        """
        ...

    @classmethod
    def seeds(cls, input: InputSpec, outputs: int, multiple: int) -> tuple[Self, ...]:
        """Return members to start a search from, rounded as in ``mutated``: the smallest of the space first.

        The largest are about the published networks, so that some obey whatever budget can be obeyed.
        """
        ...


def classifies(architecture: Architecture) -> bool:
    """Tell whether the network is a classifier; else it makes images. No weight is allocated."""
    with torch.device("meta"):
        return not hasattr(architecture.build(), "enlarger")


def kernel(shapes: Shapes, layer: str) -> tuple[int, int, int, int] | None:
    """Return the weight shape of a convolution (out, in / groups, height, width); None where ``layer`` is not one."""
    shape = shapes.get(f"{layer}.weight", ())
    return (shape[0], shape[1], shape[2], shape[3]) if len(shape) == 4 and min(shape) > 0 else None


def classes(shapes: Shapes, layer: str) -> int | None:
    """Return the outputs of a linear layer; None where ``layer`` is not one."""
    shape = shapes.get(f"{layer}.weight", ())
    return shape[0] if len(shape) == 2 and min(shape) > 0 else None


def count(shapes: Shapes, pattern: str, start: int = 0) -> int:
    """Count the numbers from ``start`` on, up to the first gap, that make a key of ``pattern`` (``layer{}.0.w``)."""
    n = 0
    while pattern.format(start + n) in shapes:
        n += 1
    return n


def small(input: InputSpec) -> bool:
    """Tell whether stems keep the resolution of this input."""
    return max(input.height, input.width) <= SMALL


def require(holds: bool, where: str, what: str, hint: str = "correct the architecture's settings") -> None:
    """Raise UsageError, for settings that describe no network, unless ``holds``."""
    if not holds:
        raise UsageError(f"{where}: {what}", hint=hint)


def initialise(network: nn.Module) -> nn.Module:
    """Initialise all convolutions as He et al. 2015 (eq. 10, by fan-out); other layers keep torch's initialisation."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # has no values, and drawing is slow
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
