"""The state of a training, in memory and as a checkpoint."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.atomic import write
from compressor.core import Json, UsageError

__all__ = ["TrainingState", "restore_tensors", "tensors_of"]


@dataclass
class TrainingState:
    """All that a stopped training needs to go on; batches and learning rates follow from the step's number."""

    learner: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None
    """The learner with exponentially averaged weights; None where they are not averaged."""
    curve: list[dict[str, Json]]
    sums: Tensor | None = None
    """The sums of the objective and of each loss over the steps of the epoch so far."""

    def add(self, losses: Tensor) -> None:
        """Add one step's objective and losses to the epoch's sums."""
        self.sums = losses if self.sums is None else self.sums + losses

    def write(self, path: Path, step: int, steps: int) -> None:
        """Store the state after ``step`` of ``steps`` steps, atomically."""
        stored = {
            "step": step,
            "steps": steps,
            "learner": tensors_of(self.learner),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else tensors_of(self.average),
            "curve": self.curve,
            "sums": self.sums,
        }
        buffer = io.BytesIO()
        torch.save(stored, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, buffer.getvalue())

    def read(self, path: Path, steps: int) -> int:
        """Restore the state and return the step to go on from; 0 where there is no checkpoint of as many steps.

        Raises UsageError for a damaged file.
        """
        if not path.exists():
            return 0
        try:
            stored: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if stored["steps"] != steps:
                return 0
        except Exception as error:  # torch.load raises many kinds for a damaged file
            raise UsageError(
                f"the checkpoint {path} is damaged", hint="delete it, or start over with --fresh"
            ) from error
        restore_tensors(self.learner, stored["learner"])
        self.optimizer.load_state_dict(stored["optimizer"])
        if self.average is not None:
            restore_tensors(self.average, stored["average"])
        self.curve[:] = stored["curve"]
        self.sums = stored["sums"]
        return int(stored["step"])


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by its name, detached.

    A state dict will not do: what Brevitas puts into it depends on how often it was called.
    """
    return {name: each.detach() for name, each in (*module.named_parameters(), *module.named_buffers())}


def restore_tensors(module: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Copy what `tensors_of` gave back into the module."""
    with torch.no_grad():
        for name, each in tensors_of(module).items():
            each.copy_(stored[name])
