"""The `Probe` that a score is computed from: one untrained candidate. Costly views are made once, when first used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from compressor.core import InputSpec
from compressor.models.common.cost import Cost
from compressor.models.common.family import Architecture
from compressor.models.common.layers import Layer, count, layers


class Score(Protocol):
    """A frozen dataclass; its fields are its settings.

    Two class variables may be left out: ``needs_labels`` (False), whether it reads the batch's labels, and
    ``for_images`` (True), whether it applies to networks that make images.
    """

    needs_teacher: ClassVar[bool]
    """Whether the score compares the student with a teacher."""

    def __call__(self, probe: Probe) -> float:
        """Return the candidate's score; higher is better. Finite, or minus infinity for a dead network."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The images and labels that all candidates of a ranking are scored on."""

    images: Tensor
    """N x channels x H x W, normalised."""
    labels: Tensor
    """N class indices."""


@dataclass(frozen=True, eq=False)
class View:
    """The feature maps and outputs of one forward pass, in which batch normalisation used the batch's statistics."""

    stages: tuple[Tensor, ...]
    """The feature map at the end of each stage, N x C x H x W."""
    last: Tensor
    """The last feature map, which is pooled or enlarged, N x C x H x W."""
    pooled: Tensor
    """The classifier's input, N x C; the means of ``last`` for a network that makes images."""
    logits: Tensor
    """The outputs, N x K; the images of a network that makes images."""

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> Self:
        """Run ``network``, of a family of `compressor.models`, on N images, in the mode that it is in."""
        kept: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda module, inputs, output=None: kept.update({name: output if name[0] == "." else inputs[0]})

        stages = tuple(f".{name}" for name in network.stages)  # type: ignore[union-attr]
        hooks = [network.get_submodule(name[1:]).register_forward_hook(keep(name)) for name in stages]
        enlarger = getattr(network, "enlarger", None)
        hooks.append(network.get_submodule(enlarger or "avgpool").register_forward_pre_hook(keep("last")))
        if enlarger is None:
            classifier = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
            hooks.append(classifier.register_forward_pre_hook(keep("pooled")))
        try:
            with torch.no_grad():
                logits: Tensor = network(images)
        finally:
            for hook in hooks:
                hook.remove()
        maps = tuple(kept[name] for name in stages)
        pooled = kept["pooled"] if enlarger is None else kept["last"].mean((2, 3))
        return cls(maps, kept["last"], pooled, logits)

    @classmethod
    def guessed(cls, network: nn.Module, images: Tensor) -> Self | None:
        """Run any classifier on N images and guess which tensors are which; None where that is not possible.

        The classifier is taken to be the linear layer that runs last; the pooled map, which stands for all stages,
        the last map before it with more than one position.
        """
        maps: list[Tensor] = []
        pooled: list[Tensor] = []

        def keep(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            if isinstance(module, nn.Linear):
                pooled[:] = [given[0]]
            elif isinstance(made, Tensor) and made.ndim == 4 and made.shape[2] * made.shape[3] > 1:
                maps[:] = [made]

        leaves = [module for module in network.modules() if not list(module.children())]
        try:
            hooks = [module.register_forward_hook(keep) for module in leaves]
            with torch.no_grad():
                logits = network(images)
        except RuntimeError:  # TorchScript takes no hooks
            return None
        for hook in hooks:
            hook.remove()
        if not maps or not pooled or pooled[0].ndim != 2 or pooled[0].shape[1] != maps[0].shape[1]:
            return None
        return cls((maps[0],), maps[0], pooled[0], logits)


@dataclass(frozen=True, eq=False)
class Probe:
    """A candidate and the batch that it is scored on."""

    architecture: Architecture
    input: InputSpec
    batch: Batch
    teacher: View | None
    """The teacher's view of the same batch, where there is a teacher."""
    seeds: tuple[int, ...] = (0,)
    """The seeds of random initialisations. A score that depends on weights averages over them."""

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The convolutions and linear layers, in the order that they run."""
        return layers(self.architecture, self.input)

    @property
    def cost(self) -> Cost:
        """The parameters and multiply-accumulates."""
        return count(self.architecture, self.input)

    @cached_property
    def views(self) -> tuple[View, ...]:
        """One view for each seed."""
        return tuple(View.of(self.network(seed), self.batch.images) for seed in self.seeds)

    def network(self, seed: int) -> nn.Module:
        """Make the candidate with Gaussian weights, in train mode."""
        return gaussian(untrained(self.architecture, seed), seed)

    def mean(self, score: Any) -> float:
        """Return the mean of ``score(view)`` over the views."""
        return sum(float(score(view)) for view in self.views) / len(self.seeds)


def untrained(architecture: Architecture, seed: int) -> nn.Module:
    """Make a network in train mode, with the family's own initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _training(architecture.build())


def gaussian(network: nn.Module, seed: int) -> nn.Module:
    """Set weights to N(0, 1), biases to 0 and batch normalisations to 1 and 0 (DisWOT, section 4); in train mode.

    Before a batch normalisation the scale of a weight has no effect. A network without any has its weights divided
    by the square root of their fan-in, because a chain of ten layers would overflow. Changes ``network``.
    """
    generator = torch.Generator().manual_seed(seed)
    plain = not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(generator=generator)
                if plain:
                    parameter.div_(parameter[0].numel() ** 0.5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.zero_()
    return _training(network)


def _training(network: nn.Module) -> nn.Module:
    """Set train mode, for the batch's own statistics, but leave dropout off, which would make scores random."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return network
