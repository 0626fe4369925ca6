"""Synaptic flow (Tanaka et al., NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from compressor.calling import named_tensors
from compressor.scores.common.probe import Probe, untrained

__all__ = ["Synflow"]


@dataclass(frozen=True)
class Synflow:
    """log of sum |theta * dR/dtheta|, where R sums the outputs for an input of ones and |weights| (eq. 1).

    Batch normalisation is left out and the initialisation is the usual one, as Abdelfattah et al. 2021 score
    architectures with it. Computed in float64, because R grows by orders of magnitude with each layer.
    """

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        return sum(self._flow(probe, seed) for seed in probe.seeds) / len(probe.seeds)

    def _flow(self, probe: Probe, seed: int) -> float:
        network = untrained(probe.architecture, seed).double()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.forward = _same  # type: ignore[method-assign]
        weights = [p for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear) for p in m.parameters()]
        with torch.no_grad():
            for weight in weights:
                weight.abs_()
        made = named_tensors(network(torch.ones(1, *probe.input.shape, dtype=torch.float64)))
        next(iter(made.values())).sum().backward()
        flow = sum((w.detach() * w.grad).sum() for w in weights if w.grad is not None)
        return float(torch.as_tensor(flow).clamp_min(torch.finfo(torch.float64).tiny).log())


def _same(input: torch.Tensor) -> torch.Tensor:
    return input
