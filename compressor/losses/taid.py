"""The student against a target that moves from its own answer to the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import UsageError
from compressor.losses._loss import Shapes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Taid"]


@dataclass(frozen=True)
class Taid:
    """T² · KL of the student from a mixture of the teacher's scores and its own, whose share of the teacher grows.

    TAID, Shing et al. 2025, arXiv 2501.16937, section 3: the share begins at ``start`` and is never under the line
    from there to 1 at the end of the training. Above the line, each step adds ``pace`` · sigmoid(m) · (1 - share);
    m is the mean, with decay ``momentum``, of how much of the loss a step took away. ``standardised`` as in
    `compressor.losses.kl`.
    """

    start: float = 0.4
    pace: float = 5e-4
    momentum: float = 0.99
    temperature: float = 4.0
    standardised: bool = False

    kind: ClassVar[str] = "taid"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"taid.temperature = {self.temperature}", hint="give a number above 0, such as 4.0")
        if not (0 <= self.start <= 1 and 0 <= self.pace <= 1 and 0 <= self.momentum < 1):
            raise UsageError(
                f"taid: start = {self.start}, pace = {self.pace}, momentum = {self.momentum}",
                hint="give shares: 0 to 1, the momentum below 1",
            )

    @property
    def whole(self) -> bool:
        return self.standardised

    def module(self, student: Shapes, classes: int) -> nn.Module:
        from compressor.losses._interpolated import Interpolated

        return Interpolated(self.start, self.pace, self.momentum, self.temperature, self.standardised)
