"""Neural architecture search without training (Mellor et al., ICML 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from compressor.scores.common.probe import Probe

__all__ = ["Nwot"]


@dataclass(frozen=True)
class Nwot:
    """log |K_H|, where K_H counts, for each two samples, the rectifiers that are in the same state (eq. 2 and 3).

    Smooth rectifiers (SiLU, GELU and so on) count as on where their input is positive.
    """

    needs_teacher: ClassVar[bool] = False

    def __call__(self, probe: Probe) -> float:
        return sum(self._volume(probe, seed) for seed in probe.seeds) / len(probe.seeds)

    def _volume(self, probe: Probe, seed: int) -> float:
        rectifiers = _Rectifiers(len(probe.batch.images))
        network = probe.network(seed)
        with torch.no_grad(), rectifiers:
            network(probe.batch.images)
        return float(torch.linalg.slogdet(rectifiers.agreement).logabsdet)


_RECTIFIERS = (
    F.relu, F.relu6, F.hardtanh, torch.relu, torch.relu_, F.leaky_relu, F.prelu, torch.prelu,
    F.hardswish, F.silu, F.gelu, F.elu, F.mish,
)  # fmt: skip
"""Functions that are on for a positive input and off, or nearly so, for a negative one."""


class _Rectifiers(TorchFunctionMode):
    """Count, for every two samples, the rectifiers that both switch on or both switch off."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.agreement = torch.zeros(samples, samples, dtype=torch.float64)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _RECTIFIERS:
            on = (args[0] > 0).flatten(1).float()
            both, count = on @ on.T, on.sum(1)
            # both on + both off, where both off = all - on in either = all - on_i - on_j + both on.
            self.agreement += 2 * both - count[:, None] - count[None, :] + on.shape[1]
        return func(*args, **(kwargs or {}))
