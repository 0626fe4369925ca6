"""The training loop, for float and quantised students, on one process or several."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compressor.core import Json, Progress, VerificationFailed
from compressor.train import workers
from compressor.train.optimizer_config import OptimizerConfig
from compressor.train.precision import autocast
from compressor.train.training_state import TrainingState, restore_tensors, tensors_of

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Batch", "Feed", "step_seconds", "train"]

_CHECKPOINT_SECONDS = 30.0
_WARMUP_STEPS, _TIMED_STEPS = 2, 6

Batch = tuple[Tensor, Tensor, Tensor]
"""Images, labels and the teacher's outputs."""
Feed = Callable[[int], Batch]
"""This process's share of a step's batch; the same for every call with that step."""


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
    """Train ``learner`` in place and return the loss curve.

    The learner is called with a batch of ``feed`` and returns the objective and each loss; its ``progress`` is the
    share of the steps that are done. The curve has a point for every ``epoch`` steps. Randomness inside a step
    (dropout) follows from ``seed``, the step and the process. Where ``checkpoint`` exists from a stopped run of the
    same training, training goes on from it and ends with the weights of an uninterrupted run. Raises
    VerificationFailed where the loss is no longer finite.
    """
    accelerator = workers.accelerator(device)
    optimizer = _optimizer(learner, optimizer_config)
    _move(learner, accelerator.device)
    average = None
    if optimizer_config.ema:
        average = AveragedModel(learner, multi_avg_fn=get_ema_multi_avg_fn(optimizer_config.ema), use_buffers=True)
    state = TrainingState(learner, optimizer, average, [])
    first = state.read(checkpoint, steps) if checkpoint is not None else 0
    model = learner if workers.world() == 1 else accelerator.prepare(learner)
    model.train()
    saved = time.monotonic()
    for step in range(first, steps):
        if step % 10 == 0:
            loss = f", loss {state.curve[-1]['loss']:.3f}" if state.curve else ""
            progress(f"{what}, epoch {1 + step // epoch} of {math.ceil(steps / epoch)}{loss}", step, steps)
        for group in optimizer.param_groups:
            group["lr"] = optimizer_config.lr_at(step, steps)
        learner.progress = step / steps  # type: ignore[assignment]
        losses = _step(model, feed(step), optimizer, optimizer_config, accelerator, [seed, 5, step, workers.rank()])
        if average is not None:
            average.update_parameters(learner)
        state.add(workers.mean(losses, device))
        last = step + 1 == steps
        if (step + 1) % epoch == 0 or last:
            _close_epoch(state, step, steps, step % epoch + 1, optimizer_config)
        due = last or time.monotonic() - saved > _CHECKPOINT_SECONDS
        if checkpoint is not None and due and workers.is_main_process():
            state.write(checkpoint, step + 1, steps)
            saved = time.monotonic()
    if average is not None:
        restore_tensors(learner, tensors_of(average.module))
    return state.curve


def step_seconds(learner: nn.Module, feed: Feed, optimizer_config: OptimizerConfig, device: str) -> float:
    """The median seconds of a training step, timed on a copy of ``learner`` after a warm-up."""
    accelerator = workers.accelerator(device)
    trial = _move(copy.deepcopy(learner), accelerator.device).train()
    optimizer = torch.optim.SGD(trial.parameters(), 0.0)
    seconds = []
    for step in range(_WARMUP_STEPS + _TIMED_STEPS):
        begun = time.perf_counter()
        images, labels, outputs = (each.to(accelerator.device) for each in feed(step))
        with autocast(optimizer_config.precision, accelerator.device):
            total, _ = trial(images, labels, outputs)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(total.detach())  # waits for the device
        seconds.append(time.perf_counter() - begun)
    return median(seconds[_WARMUP_STEPS:])


def _step(
    model: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    optimizer_config: OptimizerConfig,
    accelerator: Accelerator,
    entropy: list[int],
) -> Tensor:
    """Take one optimizer step; return the objective and each loss, in float64 on the CPU."""
    images, labels, outputs = (each.to(accelerator.device) for each in batch)
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
    with autocast(optimizer_config.precision, accelerator.device):
        total, losses = model(images, labels, outputs)
    accelerator.backward(total)
    optimizer.step()
    optimizer.zero_grad()
    return torch.cat([total.detach().reshape(1), losses]).double().cpu()


def _close_epoch(state: TrainingState, step: int, steps: int, summed: int, optimizer_config: OptimizerConfig) -> None:
    """Append the means of the last ``summed`` steps to the curve.

    Raises VerificationFailed where they are not finite.
    """
    assert state.sums is not None
    mean = state.sums / summed
    if not torch.isfinite(mean).all():
        raise VerificationFailed(
            f"training diverged: the loss is {mean[0]:g} after {step + 1} of {steps} steps",
            hint=f"lower the learning rate: {optimizer_config.lr:g} is too high here",
        )
    lr = optimizer_config.lr_at(step, steps)
    state.curve.append({"step": step + 1, "loss": float(mean[0]), "parts": mean[1:].tolist(), "lr": lr})
    state.sums = None


def _move(module: nn.Module, device: torch.device) -> nn.Module:
    """Move the module to the device in channels-last layout, which CPUs and tensor cores train fastest in."""
    moved: nn.Module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _optimizer(learner: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    groups = _parameter_groups(learner, config.weight_decay)
    if config.optimizer == "adam":
        return torch.optim.AdamW(groups, config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, config.lr, config.momentum, nesterov=config.momentum > 0)


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights are decayed; biases, norms and scales (of one dimension or none) are not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
