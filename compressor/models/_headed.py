"""A network of a known family with a head of its own: any body, any head."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor import catalog
from compressor.core import Json, UsageError
from compressor.models._family import Architecture
from compressor.models._head import ImdnHead

__all__ = ["Headed", "architecture", "body", "settings"]

_KEY = "head"
"""Of encodings and of settings, beside the body's own."""


@dataclass(frozen=True, slots=True)
class Headed:
    """``backbone`` without its own pooling and classifier, and ``head`` in their place.

    The module that ``build`` makes has the body as its child ``backbone``, under the family's own names. With
    a head for dense prediction it maps N x channels x H x W to N x outputs x H x W scores, and has no
    ``avgpool``.
    """

    backbone: Architecture
    head: ImdnHead

    @property
    def channels(self) -> int:
        return self.backbone.channels

    @property
    def outputs(self) -> int:
        return self.backbone.outputs

    def build(self) -> nn.Module:
        return _Dense(self) if self.head.task == "dense" else _Classifier(self)

    def encode(self) -> dict[str, Json]:
        return {**self.backbone.encode(), _KEY: self.head.encode()}

    def mutated(self, random: random.Random, multiple: int) -> Self:
        """A step of the body or, once in three, of the head; the other is left as it is."""
        if random.randrange(3) == 0:
            return replace(self, head=self.head.mutated(random, multiple))
        return replace(self, backbone=self.backbone.mutated(random, multiple))


def architecture(family: str, settings: Mapping[str, Json]) -> Architecture:
    """A network of a file of ``models/`` from its settings, among them, perhaps, those of its head.

    Raises UsageError naming the setting that is wrong.
    """
    own = {key: value for key, value in settings.items() if key != _KEY}
    backbone: Architecture = catalog.make(catalog.find("models", family), own, family)
    if (head := settings.get(_KEY)) is None:
        return backbone
    return Headed(backbone, catalog.make(ImdnHead, head, f"{family}: {_KEY}"))


def settings(described: Architecture) -> dict[str, Json]:
    """What `architecture` makes it again from."""
    if isinstance(described, Headed):
        return {**settings(described.backbone), _KEY: dataclasses.asdict(described.head)}
    return dataclasses.asdict(described)  # type: ignore[call-overload,no-any-return]


def body(network: nn.Module) -> nn.Module:
    """What bears its family's names: the network itself, or what stands under another head."""
    return network.backbone if isinstance(network, _Trunk) else network


class _Trunk(nn.Module):
    """Body, entry and blocks: everything up to the last feature map."""

    def __init__(self, arch: Headed) -> None:
        super().__init__()
        self.backbone: Any = arch.backbone.build()
        linears = [name for name, module in self.backbone.named_modules() if isinstance(module, nn.Linear)]
        if not linears or not hasattr(self.backbone, "features"):
            raise UsageError(
                f"{type(arch.backbone).__name__} has no classifier that a head could stand in for",
                hint="give the head to a network that classifies",
            )
        classifier: Any = self.backbone.get_submodule(linears[-1])
        self.backbone.avgpool = nn.Identity()
        self.backbone.set_submodule(linears[-1], nn.Identity())
        self.entry = arch.head.entry(classifier.in_features)
        self.blocks = arch.head.body()

    @property
    def stages(self) -> tuple[str, ...]:
        # The head works at the last resolution: of the two it is what the classifier sees.
        return (*(f"backbone.{name}" for name in self.backbone.stages[:-1]), "blocks")

    def features(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to the last feature map, that of the last block."""
        made: Tensor = self.blocks(self.entry(self.backbone.features(x)))
        return made


class _Classifier(_Trunk):
    """Blocks, pooling, a linear layer."""

    def __init__(self, arch: Headed) -> None:
        super().__init__(arch)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(arch.head.width, arch.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        logits: Tensor = self.linear(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits

    def parts(self) -> tuple[nn.Module, ...]:
        """The network as a chain, each link fed what the one before it gives: the body's, entry, blocks, head."""
        head = nn.Sequential(self.avgpool, nn.Flatten(), self.linear)
        return (*self.backbone.parts()[:-1], self.entry, *self.blocks, head)


class _Dense(_Trunk):
    """Blocks, a 1x1 convolution, and the scores at the image's own size."""

    def __init__(self, arch: Headed) -> None:
        super().__init__(arch)
        self.classifier = nn.Conv2d(arch.head.width, arch.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs x H x W logits."""
        return F.interpolate(self.classifier(self.features(x)), size=x.shape[2:], mode="bilinear", align_corners=False)
