"""A student with its objective as one module: what the training loop trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.core import InputSpec, UsageError
from compressor.losses import Objective, Outputs

__all__ = ["FeatureExtractor", "Learner"]


class FeatureExtractor(nn.Module):
    """A network that also returns its stages' feature maps, if ``features`` is true.

    The stages are the modules that the network's attribute ``stages`` names. Raises UsageError where it names none.
    """

    def __init__(self, network: nn.Module, *, features: bool) -> None:
        super().__init__()
        self.network = network
        self._collected: list[Tensor] = []
        stages: Sequence[str] | None = getattr(network, "stages", None)
        if features and not stages:
            raise UsageError(
                f"a loss reads feature maps, and {type(network).__name__} does not say which modules are its stages",
                hint="give it an attribute stages, such as ('layer1', 'layer2'), or take losses on the outputs alone",
            )
        for name in stages if features and stages else ():
            # A bound method: the hooks of a deep copy collect into the copy.
            network.get_submodule(name).register_forward_hook(self._collect)

    def _collect(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._collected.append(output)

    def forward(self, images: Tensor) -> Outputs:
        """Map images N x C x H x W to the network's output and the stages' feature maps, all in float32."""
        self._collected.clear()
        logits = self.network(images)
        return Outputs(logits.float(), tuple(each.float() for each in self._collected))


class Learner(nn.Module):
    """The student, the losses' learned modules, and a live teacher where a loss reads its feature maps."""

    def __init__(
        self, student: nn.Module, objective: Objective, input: InputSpec, teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        features = "features" in objective.needs
        assert teacher is not None or not features
        self.student = FeatureExtractor(student, features=features or "student-features" in objective.needs)
        self.objective = objective
        self.progress = 0.0
        """The share of the steps that are done."""
        # In a list, nn.Module does not register it: the teacher is neither trained nor saved.
        self._teacher = [] if teacher is None else [FeatureExtractor(teacher, features=features).eval()]
        shown = _shown(self.student, input)
        taught = _shown(self._teacher[0], input).shapes if self._teacher else ()
        self.adapters = objective.adapters(shown.shapes, taught, shown.logits.shape[1])

    def forward(self, images: Tensor, labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The objective for one batch, and each loss, detached; ``logits`` are the teacher's stored outputs."""
        teacher = Outputs(logits)
        if self._teacher:
            with torch.no_grad():
                teacher = self._teacher[0](images)
        student = replace(self.student(images), progress=self.progress)
        with torch.autocast(images.device.type, enabled=False):  # sums over a batch need more than bfloat16's 8 bits
            total, losses = self.objective(self.adapters, student, teacher, labels)
        return total, torch.stack(losses)


def _shown(extractor: FeatureExtractor, input: InputSpec) -> Outputs:
    """What a network returns for one image, in eval mode; its mode is kept."""
    training = extractor.training
    place = next(extractor.parameters()).device
    with torch.no_grad():
        outputs: Outputs = extractor.eval()(torch.zeros(1, *input.shape, device=place))
    extractor.train(training)
    return outputs
