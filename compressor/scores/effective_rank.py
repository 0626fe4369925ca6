"""The number of directions that a student's features span before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressor.scores.common.probe import Probe

__all__ = ["EffectiveRank"]


@dataclass(frozen=True)
class EffectiveRank:
    """The mean over layers of log r, where r is the effective rank of a layer's outputs (Roy & Vetterli 2007, eq. 4).

    r, between 1 and C, is exp(entropy) of the eigenvalues of the C x C covariance of the channels, over ``samples``
    samples and positions, taken evenly. Layers are convolutions without groups and linear layers on tokens, with more
    than ``positions`` positions; where there is none, all convolutions and linear layers. By the logarithm every
    doubling of r counts the same. AZ-NAS (Lee and Ham, CVPR 2024) measures each block's output in the same way.
    """

    samples: int = 512
    positions: int = 4

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        return sum(self._mean(probe.network(seed), probe.batch.images) for seed in probe.seeds) / len(probe.seeds)

    def _mean(self, network: nn.Module, images: Tensor) -> float:
        wide: list[float] = []
        others: list[float] = []

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            last = output if isinstance(module, nn.Linear) else output.movedim(1, -1)
            places = last[..., 0].numel()
            spread = places > self.positions * len(output) and getattr(module, "groups", 1) == 1
            (wide if spread else others).append(float(effective_rank(self._rows(last, places)).log()))

        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(keep)
        with torch.no_grad():
            network(images)
        logs = wide or others
        return sum(logs) / len(logs) if logs else 0.0

    def _rows(self, last: Tensor, places: int) -> Tensor:
        """Return outputs ... x C as rows of C channels, one for each position; of many, evenly taken ones."""
        if places <= self.samples:
            return last.reshape(-1, last.shape[-1])
        # The rows alone are copied: a map of all of them takes as long as the layer.
        taken = torch.linspace(0, places - 1, self.samples).long()
        return last[torch.unravel_index(taken, last.shape[:-1])]


def effective_rank(rows: Tensor) -> Tensor:
    """Return the effective rank of samples x C, a number in [1, C]; 1 where a value is not finite."""
    if not torch.isfinite(rows).all():
        return torch.tensor(1.0, dtype=torch.float64)
    rows = rows / rows.abs().max().clamp_min(torch.finfo(rows.dtype).tiny)  # else large values overflow when squared
    centred = rows - rows.mean(0)
    # X X^T and X^T X have the same nonzero eigenvalues: take the smaller.
    tall = centred if centred.shape[0] <= centred.shape[1] else centred.T
    eigenvalues = torch.linalg.eigvalsh(tall @ tall.T).double().clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(torch.float64).tiny)
    rank: Tensor = torch.special.entr(share).sum().exp()
    return rank
