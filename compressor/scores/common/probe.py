"""The `Probe` that a score is computed from: one untrained candidate. Costly views are made once, when first used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from compressor.calling import named_tensors
from compressor.core import InputSpec, UsageError
from compressor.models.common.cost import Cost
from compressor.models.common.family import Buildable
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

    last: Tensor
    """The last feature map, which is pooled or enlarged, N x C x H x W."""
    pooled: Tensor
    """The last layer's input, N x C; the means of ``last`` for a network that answers for every position."""
    logits: Tensor
    """The outputs, N x K; N x K x H x W of a network that answers for every position."""

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> Self | None:
        """Run any network on N images, in the mode that it is in; None where its last map cannot be told.

        The last layer is the convolution or linear layer that runs last. The last feature map is its input or, where
        that is a vector for each image, the last map before it that has as many channels and more than one position.
        """
        maps: list[Tensor] = []
        ends: list[tuple[Tensor, Tensor | None]] = []

        def keep(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            if isinstance(module, nn.Conv2d | nn.Linear):
                ends[:] = [(given[0], maps[-1] if maps else None)]
            if isinstance(made, Tensor) and made.ndim == 4 and made.shape[2] * made.shape[3] > 1:
                maps[:] = [made]

        try:
            hooks = [module.register_forward_hook(keep) for module in network.modules()]
        except RuntimeError:  # TorchScript takes no hooks
            return None
        try:
            with torch.no_grad():
                logits = next(iter(named_tensors(network(images)).values()))
        finally:
            for hook in hooks:
                hook.remove()
        if not ends:
            return None
        (given, before) = ends[0]
        if given.ndim == 4 and given.shape[2] * given.shape[3] > 1:
            return cls(given, given.mean((2, 3)), logits)
        pooled = given.flatten(1)
        if before is None or before.shape[:2] != pooled.shape:
            return None
        return cls(before, pooled, logits)


@dataclass(frozen=True, eq=False)
class Probe:
    """A candidate and the batch that it is scored on."""

    architecture: Buildable
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
        """One view for each seed. Raises UsageError where the network's last feature map cannot be told."""
        return tuple(view_of(self.network(seed), self.batch.images) for seed in self.seeds)

    def network(self, seed: int) -> nn.Module:
        """Make the candidate with Gaussian weights; batch normalisation uses the batch's statistics."""
        return gaussian(untrained(self.architecture, seed), seed)

    def mean(self, score: Any) -> float:
        """Return the mean of ``score(view)`` over the views."""
        return sum(float(score(view)) for view in self.views) / len(self.seeds)


def view_of(network: nn.Module, images: Tensor) -> View:
    """Return `View.of`. Raises UsageError where the network's last feature map cannot be told."""
    view = View.of(network, images)
    if view is None:
        raise UsageError(
            f"it cannot be told which tensor of {type(network).__name__} is its last feature map",
            hint="leave out the scores that read it: relation, semantic and zen",
        )
    return view


def check_classes(logits: Tensor, labels: Tensor) -> None:
    """Raise UsageError unless ``logits`` are N x K, with a score for each class that the labels name."""
    if logits.ndim != 2 or logits.shape[1] <= int(labels.max()):
        shape = "x".join(map(str, logits.shape[1:]))
        raise UsageError(
            f"a network gives {shape} for an image, and not a score for each of the data's classes",
            hint="leave out the scores that read labels, gradnorm and semantic, or give the network's own data",
        )


def untrained(architecture: Buildable, seed: int) -> nn.Module:
    """Make a network with its own initialisation; batch normalisation uses the batch's statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _of_the_batch(architecture.build())


def gaussian(network: nn.Module, seed: int) -> nn.Module:
    """Set weights to N(0, 1), biases to 0 and batch normalisations to 1 and 0 (DisWOT, section 4).

    Before a batch normalisation the scale of a weight has no effect. A network without any has its weights divided
    by the square root of their fan-in, because a chain of ten layers would overflow. Changes ``network``, in which
    batch normalisation uses the batch's statistics from then on.
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
    return _of_the_batch(network)


def _of_the_batch(network: nn.Module) -> nn.Module:
    """Have batch normalisations use the batch's statistics, and all else (dropout, extra heads) as when deployed."""
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return network
