"""The module of `compressor.losses.taid`: its share of the teacher is a part of the training's state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.losses._logits import softened
from compressor.losses._loss import Outputs


class Interpolated(nn.Module):
    """Maps the outputs of student and teacher to the loss; in training mode each call moves the share on."""

    share: Tensor
    trend: Tensor
    before: Tensor

    def __init__(self, start: float, pace: float, momentum: float, temperature: float, standardised: bool) -> None:
        super().__init__()
        self.start, self.pace, self.momentum = start, pace, momentum
        self.temperature, self.standardised = temperature, standardised
        for name, value in (("share", start), ("trend", 0.0), ("before", -1.0)):  # a loss below 0: there was none
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        """Return the mean over the batch, a scalar."""
        ours, theirs = (softened(each.logits, self.temperature, self.standardised) for each in (student, teacher))
        share = self.share.clamp_min(self.start + (1 - self.start) * student.progress)
        target = torch.lerp(ours.detach(), theirs, share.to(ours.dtype))
        loss = self.temperature**2 * F.kl_div(
            F.log_softmax(ours, 1), F.log_softmax(target, 1), reduction="batchmean", log_target=True
        )
        if self.training:
            self._move(share, loss.detach().double())
        return loss

    def _move(self, share: Tensor, loss: Tensor) -> None:
        if self.before >= 0:
            change = (self.before - loss) / (self.before + 1e-15)
            self.trend.copy_(self.momentum * self.trend + (1 - self.momentum) * change)
        self.share.copy_((share + self.pace * torch.sigmoid(self.trend) * (1 - share)).clamp_max(1.0))
        self.before.copy_(loss)
