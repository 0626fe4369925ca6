"""How a training goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Recipe"]


@dataclass(frozen=True)
class OptimizerConfig:
    """How a training goes: SGD with Nesterov momentum, or Adam; weights decayed, biases and norms not.

    ``rate`` is the highest learning rate: of ``sgd`` at a batch of 128 samples (scaled with the batch: Goyal et al.
    2017), of ``adam`` (Kingma and Ba 2015, with decoupled decay: Loshchilov and Hutter 2019) as it is; ``momentum``
    is Adam's first beta.
    ``one-cycle`` climbs to it over the first ``warmup`` of the steps and falls along a cosine to zero;
    ``cosine`` only falls. ``ema`` averages the weights with that decay (0: not). ``precision``
    ``auto`` takes bfloat16 where the device computes in it.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: float = 0.2
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def problems(self) -> tuple[str, ...]:
        """What is out of range, each with its mend."""
        checks = (
            (self.batch >= 2, f"batch = {self.batch}: train on two samples or more at a time"),
            (0 < self.rate < math.inf, f"rate = {self.rate}: give a learning rate above 0"),
            (0 <= self.momentum < 1, f"momentum = {self.momentum}: give 0 or more, below 1"),
            (0 <= self.decay < math.inf, f"decay = {self.decay}: give 0 or more"),
            (0 <= self.warmup < 1, f"warmup = {self.warmup}: give a share of the steps, below 1"),
            (0 <= self.ema < 1, f"ema = {self.ema}: give a decay below 1, 0 for none"),
        )
        return tuple(said for fine, said in checks if not fine)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step."""
        climb = self.warmup * steps if self.schedule == "one-cycle" else 0.0
        top = self.rate * (self.batch / 128 if self.optimizer == "sgd" else 1.0)
        if step < climb:
            return top * (step + 1) / (climb + 1)
        return top * 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1.0, steps - climb)))
