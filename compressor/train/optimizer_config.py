"""The settings of the optimizer and of the learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["OptimizerConfig"]

_REFERENCE_BATCH = 128
"""The batch size that ``lr`` of SGD refers to."""


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD with Nesterov momentum, or Adam with decoupled weight decay; biases and norms are not decayed.

    ``lr`` is the peak learning rate. For ``sgd`` it refers to a batch of 128 samples and is scaled in proportion
    to the batch (Goyal et al. 2017, arXiv 1706.02677). For ``adam`` (Kingma and Ba 2015, arXiv 1412.6980;
    Loshchilov and Hutter 2019, arXiv 1711.05101) it is not scaled, and ``momentum`` is the first beta.
    ``one-cycle`` rises to the peak over the first ``warmup`` of the steps and falls along a cosine to zero;
    ``cosine`` only falls. ``ema`` is the decay of an exponential moving average of the weights; 0 turns it off.
    ``precision = "auto"`` computes in bfloat16 where the device supports it natively.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: float = 0.2
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def problems(self) -> tuple[str, ...]:
        """List the settings that are out of range, each with the values that it takes."""
        checks = (
            (self.batch >= 2, f"batch = {self.batch}: train on two samples or more at a time"),
            (0 < self.lr < math.inf, f"lr = {self.lr}: give a learning rate above 0"),
            (0 <= self.momentum < 1, f"momentum = {self.momentum}: give 0 or more, below 1"),
            (0 <= self.weight_decay < math.inf, f"weight_decay = {self.weight_decay}: give 0 or more"),
            (0 <= self.warmup < 1, f"warmup = {self.warmup}: give a share of the steps, below 1"),
            (0 <= self.ema < 1, f"ema = {self.ema}: give a decay below 1, or 0 for no average"),
        )
        return tuple(problem for valid, problem in checks if not valid)

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` (from 0) of ``steps``."""
        climb = self.warmup * steps if self.schedule == "one-cycle" else 0.0
        peak = self.lr * (self.batch / _REFERENCE_BATCH if self.optimizer == "sgd" else 1.0)
        if step < climb:
            return peak * (step + 1) / (climb + 1)
        return peak * 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1.0, steps - climb)))
