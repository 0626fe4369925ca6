"""What a score may look at: one untrained candidate, each costly view of it made once, when first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from compressor.core import InputSpec
from compressor.models._cost import Cost
from compressor.models._family import Architecture
from compressor.models._layers import Layer, count, layers


class Score(Protocol):
    """A frozen dataclass; its fields are its settings."""

    needs_teacher: ClassVar[bool]
    """True where the score compares the student with a teacher."""

    def __call__(self, probe: Probe) -> float:
        """The candidate's score; higher is better. Finite, or minus infinity for a dead network."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The one batch that every candidate of a ranking is shown."""

    images: Tensor
    """N x channels x H x W, normalised."""
    labels: Tensor
    """N classes."""


@dataclass(frozen=True, eq=False)
class View:
    """One forward pass of one network, in train mode: batch normalisation works on the batch's own statistics."""

    stages: tuple[Tensor, ...]
    """The feature map at the end of each stage, N x C x H x W."""
    last: Tensor
    """The feature map that is pooled, or enlarged, N x C x H x W."""
    pooled: Tensor
    """What the classifier is given, N x C; the means of ``last`` where there is none."""
    logits: Tensor
    """N x K; of a network that makes images those."""

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> Self:
        """Run ``network`` (any of `compressor.models`) on N images; its mode is left as it is."""
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
        """The same of any classifier, which does not name its parts; None where they cannot be made out.

        The classifier is the linear layer that runs last, the map that is pooled the last one before it that
        has more than one place; it stands for all stages.
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
    """A candidate, as scores see it."""

    architecture: Architecture
    input: InputSpec
    batch: Batch
    teacher: View | None
    """The teacher's view of the same batch."""
    seeds: tuple[int, ...] = (0,)
    """One random initialisation each; a score that sees weights averages over them."""

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return layers(self.architecture, self.input)

    @property
    def cost(self) -> Cost:
        return count(self.architecture, self.input)

    @cached_property
    def views(self) -> tuple[View, ...]:
        """One for each seed."""
        return tuple(View.of(self.network(seed), self.batch.images) for seed in self.seeds)

    def network(self, seed: int) -> nn.Module:
        """The candidate with Gaussian weights, in train mode."""
        return gaussian(untrained(self.architecture, seed), seed)

    def mean(self, score: Any) -> float:
        """The mean of ``score(view)`` over the views."""
        return sum(float(score(view)) for view in self.views) / len(self.seeds)


def untrained(architecture: Architecture, seed: int) -> nn.Module:
    """A network in train mode, initialised as its family does it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _training(architecture.build())


def gaussian(network: nn.Module, seed: int) -> nn.Module:
    """``network`` in train mode: weights N(0, 1), biases 0, batch normalisation 1 and 0 (DisWOT, section 4).

    Behind a batch normalisation the scale of a weight is without effect. Where there is none weights are divided by
    the root of how many an output sums: a chain of ten layers would overflow otherwise.
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
    """In train mode, for the batch's own statistics; but with dropout off, which would make scores a game of dice."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return network
