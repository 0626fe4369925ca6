"""Calibration samples made without data, from what a network itself tells of its training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.core import Batch, Model, Progress
from compressor.feeds import random_feeds

if TYPE_CHECKING:
    import torch
    from torch import nn


__all__ = ["SyntheticSamples"]

_STEPS, _RATE = 150, 0.1
"""Steps of Adam, and their size, with which images are fitted to the statistics."""
_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class SyntheticSamples:
    """Samples without targets. Satisfies `compressor.core.Split`.

    Images for a PyTorch network with batch normalisation begin as noise, and are changed until the mean and deviation
    of each channel before each normalisation are those that training left there (ZeroQ, Cai et al. 2020,
    arXiv 2001.00281, equation 3). Images for any other network are noise with the 1/f spectrum of photographs. Other
    inputs are random numbers.
    """

    model: Model
    count: int
    seed: int
    progress: Progress
    rows: NDArray[np.int64] | None = None

    @property
    def name(self) -> str:
        return "synthetic samples"

    @property
    def fingerprint(self) -> str:
        said = [self.model.sha256, str(self.count), str(self.seed), str(self._chosen.tolist())]
        return hashlib.sha256(" ".join(said).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._chosen)

    def take(self, indices: NDArray[np.int64]) -> SyntheticSamples:
        """The samples at ``indices``."""
        part = SyntheticSamples(self.model, self.count, self.seed, self.progress, self._chosen[indices])
        part.__dict__["_feeds"] = self._feeds
        return part

    def batches(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Yield the samples in order, ``size`` at a time, without targets."""
        rows = self._chosen if indices is None else self._chosen[indices]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield Batch({name: array[part] for name, array in self._feeds.items()}, None)

    @property
    def _chosen(self) -> NDArray[np.int64]:
        return np.arange(self.count, dtype=np.int64) if self.rows is None else self.rows

    @cached_property
    def _feeds(self) -> Mapping[str, NDArray[Any]]:
        feeds = dict(random_feeds(self.model.signature, self.model.sizes, self.count, self.seed))
        spec = self.model.signature.input
        if len(self.model.signature.inputs) == 1 and spec.dtype == "float32" and len(spec.shape) == 4:
            noise = _photographic(feeds[spec.name].shape, self.seed)
            feeds[spec.name] = noise if self.model.source is None else _fitted(self.model, noise, self.progress)
        return feeds


def _photographic(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Noise of mean 0 and deviation 1 whose power falls with the square of the frequency, N x C x H x W."""
    rng = np.random.default_rng([seed, 2])
    rows, columns = (np.fft.fftfreq(side)[:, None] for side in shape[2:])
    frequency = np.hypot(rows, columns.T)
    frequency[0, 0] = 1.0
    spectrum = np.fft.fft2(rng.standard_normal(shape)) / np.maximum(frequency, 1 / max(shape[2:]))
    noise = np.real(np.fft.ifft2(spectrum))
    noise -= noise.mean(axis=(2, 3), keepdims=True)
    noise /= noise.std(axis=(2, 3), keepdims=True) + 1e-12
    return np.asarray(noise + 0.5 * rng.standard_normal((*shape[:2], 1, 1)), np.float32)


def _fitted(model: Model, images: NDArray[np.float32], progress: Progress) -> NDArray[np.float32]:
    """``images`` changed to have the statistics of the network's batch normalisations; as they are without those."""
    import torch

    from compressor.frontend import load_network

    network = load_network(model)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.running_mean is not None]
    if not norms:
        return images
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    parts = []
    for start in range(0, len(images), _AT_ONCE):
        progress("make samples", start, len(images))
        part = torch.from_numpy(images[start : start + _AT_ONCE]).clone().requires_grad_(True)
        parts.append(_descend(network, norms, part).numpy())
    return np.concatenate(parts)


def _descend(network: nn.Module, norms: list[Any], images: torch.Tensor) -> torch.Tensor:
    import torch

    seen: dict[Any, torch.Tensor] = {}
    hooks = [norm.register_forward_pre_hook(lambda norm, inputs: seen.__setitem__(norm, inputs[0])) for norm in norms]
    optimizer = torch.optim.Adam([images], _RATE)
    try:
        for _ in range(_STEPS):
            optimizer.zero_grad()
            network(images)
            loss = images.mean((0, 2, 3)).square().mean()
            for norm, x in seen.items():
                deviation = (norm.running_var + norm.eps).sqrt()
                loss = loss + ((x.mean((0, 2, 3)) - norm.running_mean) / deviation).square().mean()
                loss = loss + ((x.var((0, 2, 3)) + norm.eps).sqrt() / deviation - 1).square().mean()
            loss.backward()
            optimizer.step()
    finally:
        for hook in hooks:
            hook.remove()
    return images.detach()
