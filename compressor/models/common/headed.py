"""A network of a known family with another head than the family's own."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor import catalog
from compressor.core import Json, UsageError
from compressor.models.common.family import Architecture
from compressor.models.common.head import ImdnHead

__all__ = ["Headed", "architecture", "body", "family_of", "label", "settings"]

_KEY = "head"
"""The key of the head in encodings and settings, beside the backbone's own keys."""


@dataclass(frozen=True, slots=True)
class Headed:
    """``backbone`` with ``head`` in place of its own pooling and classifier.

    The network that ``build`` makes has the backbone's network as its child ``backbone``. With a dense head it
    maps N x channels x H x W to N x outputs x H x W scores, and has no ``avgpool``.
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
        """Take a step of the backbone or, one time in three, of the head."""
        if random.randrange(3) == 0:
            return replace(self, head=self.head.mutated(random, multiple))
        return replace(self, backbone=self.backbone.mutated(random, multiple))


def architecture(family: str, settings: Mapping[str, Json]) -> Architecture:
    """Return the architecture of a family of ``models/`` with these settings, which may include a ``head``'s.

    Raises UsageError naming the setting that is wrong.
    """
    own = {key: value for key, value in settings.items() if key != _KEY}
    backbone: Architecture = catalog.make(catalog.find("models", family), own, family)
    if (head := settings.get(_KEY)) is None:
        return backbone
    return Headed(backbone, catalog.make(ImdnHead, head, f"{family}: {_KEY}"))


def settings(described: Architecture) -> dict[str, Json]:
    """Return the settings from which `architecture` makes ``described`` again."""
    if isinstance(described, Headed):
        return {**settings(described.backbone), _KEY: dataclasses.asdict(described.head)}
    return dataclasses.asdict(described)  # type: ignore[call-overload,no-any-return]


def family_of(described: Architecture) -> str:
    """Return the name of an architecture's family: a file of ``models/``."""
    return catalog.name_of(described.backbone if isinstance(described, Headed) else described)


def label(described: Architecture) -> str:
    """Return an architecture's family and encoding in one line: no two architectures have the same."""
    return f"{family_of(described)} {json.dumps(described.encode())}"


def body(network: nn.Module) -> nn.Module:
    """Return the module whose state dict has the family's keys: the network itself, or the backbone of a `Headed`."""
    return network.backbone if isinstance(network, _Trunk) else network


class _Trunk(nn.Module):
    """Backbone, entry and blocks: everything up to the last feature map."""

    def __init__(self, arch: Headed) -> None:
        super().__init__()
        self.backbone: Any = arch.backbone.build()
        linears = [name for name, module in self.backbone.named_modules() if isinstance(module, nn.Linear)]
        if not linears or not hasattr(self.backbone, "features"):
            raise UsageError(
                f"{type(arch.backbone).__name__} has no classifier that a head could replace",
                hint="give the head to a network that classifies",
            )
        classifier: Any = self.backbone.get_submodule(linears[-1])
        self.backbone.avgpool = nn.Identity()
        self.backbone.set_submodule(linears[-1], nn.Identity())
        self.entry = arch.head.entry(classifier.in_features)
        self.blocks = arch.head.body()

    @property
    def stages(self) -> tuple[str, ...]:
        # The head works at the backbone's last resolution; its map, not the backbone's, is what the classifier sees.
        return (*(f"backbone.{name}" for name in self.backbone.stages[:-1]), "blocks")

    def features(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to the last feature map: N x width x H' x W', the last block's."""
        made: Tensor = self.blocks(self.entry(self.backbone.features(x)))
        return made


class _Classifier(_Trunk):
    """A trunk, pooling, a linear layer."""

    def __init__(self, arch: Headed) -> None:
        super().__init__(arch)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(arch.head.width, arch.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs logits."""
        logits: Tensor = self.linear(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the network as a chain: the backbone's parts without its head, entry, blocks, head."""
        head = nn.Sequential(self.avgpool, nn.Flatten(), self.linear)
        return (*self.backbone.parts()[:-1], self.entry, *self.blocks, head)


class _Dense(_Trunk):
    """A trunk, a 1x1 convolution to scores, and a resizing to the image's height and width."""

    def __init__(self, arch: Headed) -> None:
        super().__init__(arch)
        self.classifier = nn.Conv2d(arch.head.width, arch.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels x H x W to N x outputs x H x W logits."""
        return F.interpolate(self.classifier(self.features(x)), size=x.shape[2:], mode="bilinear", align_corners=False)
