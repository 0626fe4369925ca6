"""The training loop: distillation, quantised or not, on one process or many."""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compressor.atomic import write
from compressor.core import Json, Progress, UsageError, VerificationFailed
from compressor.train import workers
from compressor.train.optimizer_config import OptimizerConfig

__all__ = ["autocast", "narrow", "step_seconds", "train"]

_CHECKPOINT_SECONDS = 30.0
_WARM, _TIMED = 2, 6

Feed = Callable[[int], tuple[Tensor, Tensor, Tensor]]
"""Images, labels and the teacher's logits of a step: this process's share of the batch. The same each time."""


def train(
    learner: nn.Module,
    feed: Feed,
    steps: int,
    optimizer_config: OptimizerConfig,
    *,
    seed: int,
    device: str,
    epoch: int,
    checkpoint: Path | None,
    progress: Progress,
    what: str = "train",
) -> list[dict[str, Json]]:
    """Train ``learner`` (called with what ``feed`` gives, returns the loss and its parts) in place.

    ``epoch`` is how many steps the curve's points average over. What is random in a step (dropout) follows
    from ``seed``, the step and the process. From ``checkpoint``, where an earlier
    try of the same training left one, it goes on, with the weights that an unbroken training would
    have. Returns the curve. Raises VerificationFailed where the loss is no number any more.
    """
    accelerator = workers.accelerator(device)
    optimizer = _optimizer(_groups(learner, optimizer_config.decay), optimizer_config)
    _place(learner, accelerator.device)
    average = (
        AveragedModel(learner, multi_avg_fn=get_ema_multi_avg_fn(optimizer_config.ema), use_buffers=True) if optimizer_config.ema else None
    )
    state = _State(learner, optimizer, average, [])
    begun = state.read(checkpoint, steps) if checkpoint is not None else 0
    model = learner if workers.world() == 1 else accelerator.prepare(learner)
    model.train()
    saved, sums = time.monotonic(), state.sums
    for step in range(begun, steps):
        if step % 10 == 0:
            progress(f"{what}, epoch {1 + step // epoch} of {math.ceil(steps / epoch)}{state.told}", step, steps)
        for group in optimizer.param_groups:
            group["lr"] = optimizer_config.rate_at(step, steps)
        images, labels, logits = (each.to(accelerator.device) for each in feed(step))
        torch.manual_seed(int(np.random.SeedSequence([seed, 5, step, workers.rank()]).generate_state(1)[0]))
        with autocast(optimizer_config.precision, accelerator.device):
            total, parts = model(images, labels, logits)
        accelerator.backward(total)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update_parameters(learner)
        seen = workers.mean(torch.cat([total.detach().reshape(1), parts]).double().cpu(), device)
        sums = seen if sums is None else sums + seen
        last = step + 1 == steps
        if (step + 1) % epoch == 0 or last:
            mean = sums / ((step % epoch) + 1)
            if not torch.isfinite(mean).all():
                raise VerificationFailed(
                    f"training diverged: the loss is {mean[0]:g} after {step + 1} of {steps} steps",
                    hint=f"lower the learning rate: {optimizer_config.rate:g} is too high here",
                )
            state.curve.append(
                {
                    "step": step + 1,
                    "loss": float(mean[0]),
                    "parts": mean[1:].tolist(),
                    "rate": optimizer_config.rate_at(step, steps),
                }
            )
            sums = None
        if checkpoint is not None and workers.is_main_process() and (last or time.monotonic() - saved > _CHECKPOINT_SECONDS):
            state.sums = sums
            state.write(checkpoint, step + 1, steps)
            saved = time.monotonic()
    if average is not None:
        _restore(learner, _tensors(average.module))
    return state.curve


def step_seconds(learner: nn.Module, feed: Feed, optimizer_config: OptimizerConfig, device: str) -> float:
    """What a step takes, from a timed warm-up on a copy."""
    accelerator = workers.accelerator(device)
    trial = _place(copy.deepcopy(learner), accelerator.device).train()
    optimizer = torch.optim.SGD(trial.parameters(), 0.0)
    taken = []
    for step in range(_WARM + _TIMED):
        begun = time.perf_counter()
        images, labels, logits = (each.to(accelerator.device) for each in feed(step))
        with autocast(optimizer_config.precision, accelerator.device):
            total, _ = trial(images, labels, logits)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(total.detach())
        taken.append(time.perf_counter() - begun)
    return median(taken[_WARM:])


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """bfloat16 for convolutions and products where `narrow` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=narrow(precision, device))


def narrow(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16: where asked for, or where the device is made for it."""
    return precision == "bf16" or (precision == "auto" and _computes_bf16(device))


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.backends.mkldnn.is_available() and torch.cpu.get_capabilities().get("avx512_bf16"))


def _place(module: nn.Module, device: torch.device) -> nn.Module:
    """On the device, its channels last: what CPUs and tensor cores train fastest in."""
    placed: nn.Module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _optimizer(groups: list[dict[str, Any]], optimizer_config: OptimizerConfig) -> torch.optim.Optimizer:
    if optimizer_config.optimizer == "adam":
        return torch.optim.AdamW(groups, optimizer_config.rate, betas=(optimizer_config.momentum, 0.999))
    return torch.optim.SGD(groups, optimizer_config.rate, optimizer_config.momentum, nesterov=optimizer_config.momentum > 0)


def _groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weights are decayed; biases, norms and scales (one dimension or none) are not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


@dataclass
class _State:
    """All that a training needs to go on: batches and rates follow from the step's number."""

    learner: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None
    curve: list[dict[str, Json]]
    sums: Tensor | None = None

    @property
    def told(self) -> str:
        return f", loss {self.curve[-1]['loss']:.3f}" if self.curve else ""

    def write(self, path: Path, step: int, steps: int) -> None:
        kept = {
            "step": step,
            "steps": steps,
            "learner": _tensors(self.learner),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else _tensors(self.average),
            "curve": self.curve,
            "sums": self.sums,
        }
        buffer = io.BytesIO()
        torch.save(kept, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, buffer.getvalue())

    def read(self, path: Path, steps: int) -> int:
        """The step to go on from; 0 where there is nothing to go on from."""
        if not path.exists():
            return 0
        try:
            kept: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if kept["steps"] != steps:
                return 0
        except Exception as error:  # whatever a damaged file makes it say
            raise UsageError(
                f"the checkpoint {path} is damaged", hint="delete it, or start over with --fresh"
            ) from error
        _restore(self.learner, kept["learner"])
        self.optimizer.load_state_dict(kept["optimizer"])
        if self.average is not None:
            _restore(self.average, kept["average"])
        self.curve[:] = kept["curve"]
        self.sums = kept["sums"]
        return int(kept["step"])


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer as it is: what Brevitas puts into a state dict depends on how often it was called."""
    return {name: each.detach() for name, each in (*module.named_parameters(), *module.named_buffers())}


def _restore(module: nn.Module, kept: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, each in _tensors(module).items():
            each.copy_(kept[name])
