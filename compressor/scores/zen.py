"""Zen-score (Lin et al., ICCV 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from compressor.scores.common.probe import Probe, view_of

__all__ = ["Zen"]


@dataclass(frozen=True)
class Zen:
    """The change of the last feature map f with the input, batch normalisation's scaling undone (algorithm 1).

    log E||f(x) - f(x + alpha e)|| + sum over batch normalisations of log sqrt(mean of the variances that
    they divide by), where x and e are drawn from N(0, 1).
    """

    alpha: float = 0.01

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        return sum(self._expressivity(probe, seed) for seed in probe.seeds) / len(probe.seeds)

    def _expressivity(self, probe: Probe, seed: int) -> float:
        network = probe.network(seed)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # a cumulative average: after one batch, that batch's variance
        generator = torch.Generator().manual_seed(seed)
        x, e = torch.randn(2, *probe.batch.images.shape, generator=generator)
        before = view_of(network, x).last
        scales = torch.stack([norm.running_var.mean().sqrt().log() for norm in norms]).sum()  # type: ignore[union-attr]
        after = view_of(network, x + self.alpha * e).last
        return float((before - after).flatten(1).norm(dim=1).mean().log() + scales)
