"""A student together with what it is taught by, as one module: what the loop trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressor.core import InputSpec, UsageError
from compressor.losses import Objective, Outputs, Shapes

__all__ = ["Learner", "Watched"]


class Watched(nn.Module):
    """A network that hands out its stages' feature maps beside its scores, where ``features`` asks for them.

    Raises UsageError where it names no stages.
    """

    def __init__(self, network: nn.Module, *, features: bool) -> None:
        super().__init__()
        self.network = network
        self._kept: list[Tensor] = []
        stages: Sequence[str] | None = getattr(network, "stages", None)
        if features and not stages:
            raise UsageError(
                f"a loss reads feature maps, and {type(network).__name__} does not say which modules are its stages",
                hint="give it an attribute stages, such as ('layer1', 'layer2'), or take losses on the scores alone",
            )
        for name in stages if features and stages else ():
            network.get_submodule(name).register_forward_hook(self._keep)  # bound: a copy's hooks are the copy's

    def _keep(self, module: nn.Module, given: object, made: Tensor) -> None:
        self._kept.append(made)

    def forward(self, images: Tensor) -> Outputs:
        """N x C x H x W to N x K scores and the stages' maps."""
        self._kept.clear()
        logits = self.network(images)
        return Outputs(logits.float(), tuple(each.float() for each in self._kept))


class Learner(nn.Module):
    """Student, the losses' learned parts, and a live teacher where a loss reads its feature maps."""

    def __init__(
        self, student: nn.Module, objective: Objective, input: InputSpec, teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        features = "features" in objective.needs
        assert teacher is not None or not features
        self.student = Watched(student, features=features)
        self.objective = objective
        # Kept from nn.Module's sight: it is neither trained nor saved.
        self._teacher = [] if teacher is None else [Watched(teacher.eval(), features=features)]
        shapes = [self._shapes(each, input) for each in (self.student, *self._teacher)] if features else [(), ()]
        self.adapters = objective.adapters(shapes[0], shapes[1])

    def forward(self, images: Tensor, labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The objective for one batch, and each loss by itself, detached. ``logits`` are the teacher's, stored."""
        taught = Outputs(logits)
        if self._teacher:
            with torch.no_grad():
                taught = self._teacher[0](images)
        answered = self.student(images)
        with torch.autocast(images.device.type, enabled=False):  # sums over a batch want more than 8 bits
            total, parts = self.objective(self.adapters, answered, taught, labels)
        return total, torch.stack(parts)

    @staticmethod
    def _shapes(watched: Watched, input: InputSpec) -> Shapes:
        training = watched.training
        place = next(watched.parameters()).device
        with torch.no_grad():
            shapes: Shapes = watched.eval()(torch.zeros(1, *input.shape, device=place)).shapes
        watched.train(training)
        return shapes
