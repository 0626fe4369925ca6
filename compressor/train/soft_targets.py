"""The teacher's answers, stored once for a fixed set of augmented views (dataset reinforcement)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from compressor.atomic import write
from compressor.core import Progress, UsageError
from compressor.train.samples import Samples

__all__ = ["SoftTargets"]

_SHARD = 8192
"""Samples a file: what a stopped run loses at most."""
_FULL = 128
"""Classes up to which all of a sample's logits are kept."""
_TOP = 32
"""Of more classes, how many."""
_SOFT = 4.0
"""The temperature at which the other classes' common log-probability weighs what theirs did."""
_DRAWN = 20
"""Bytes of what is drawn for a sample."""
_BATCH = 256


@dataclass
class SoftTargets:
    """Logits of a teacher for ``views`` augmented views of every sample (Faghri et al. 2023, arXiv 2303.08983).

    An epoch reads the view ``epoch % views``. A file holds what was drawn for its samples, and the logits as
    float16: of more than 128 classes the 32 highest log-probabilities, and one that stands for every other
    class, so that softened by T = 4 (what distillation mostly asks for) the tail weighs what it did. A file
    that is there and belongs to these inputs is not made again.
    """

    samples: Samples
    views: int
    folder: Path
    fingerprint: str
    """Of the teacher and of how its answers are computed."""
    _views: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        said = [self.fingerprint, self.samples.split.fingerprint, repr(self.samples.augmentation), self.samples.seed]
        self._key = hashlib.sha256(json.dumps(said).encode()).hexdigest()

    @staticmethod
    def affordable(samples: int, classes: int, limit: int) -> int:
        """How many views fit ``limit`` bytes. Raises UsageError where not even one does."""
        each = samples * (_DRAWN + (2 * classes if classes <= _FULL else 6 * _TOP + 2))
        if each > limit:
            raise UsageError(
                f"the teacher's answers to {samples:,} samples take {each:,} bytes a view, more than distill.cache",
                hint=f'set distill.cache = "{math.ceil(each / 1e6)}MB"',
            )
        return limit // each

    @property
    def complete(self) -> int:
        """How many views are stored already, from the first on."""
        missing = {view for view, start in self._places() if not self._there(view, start)}
        return min(missing, default=self.views)

    def prepare(self, answer: Callable[[Tensor], Tensor], progress: Progress) -> int:
        """Ask the teacher for what is not stored yet; return how many samples it was asked."""
        missing = [place for place in self._places() if not self._there(*place)]
        for number, (view, start) in enumerate(missing):
            progress("teacher's answers", number, len(missing))
            rows = np.arange(start, min(start + _SHARD, len(self.samples)))
            drawn = self.samples.drawn(view)
            logits = torch.cat([answer(self.samples.batch(part, drawn)[0]).float() for part in _cut(rows)])
            tensors = _packed(logits) | {"drawn": torch.from_numpy(drawn[rows])}
            write(self._file(view, start), save(tensors, metadata={"key": self._key}))
        return sum(min(_SHARD, len(self.samples) - start) for _, start in missing)

    def batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented images, labels (as `Samples.batch`) and the teacher's logits N x K for samples in an epoch."""
        view = epoch % self.views
        if view not in self._views:
            self._views = {view: self._read(view)}  # one epoch reads one view
        stored = self._views[view]
        images, labels = self.samples.batch(rows, stored["drawn"].numpy())
        at = torch.from_numpy(rows)
        return images, labels, _unpacked({name: each[at] for name, each in stored.items()}, self.samples.classes)

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self._file(*place).stat().st_size for place in self._places())

    def _places(self) -> list[tuple[int, int]]:
        return [(view, start) for view in range(self.views) for start in range(0, len(self.samples), _SHARD)]

    def _file(self, view: int, start: int) -> Path:
        return self.folder / f"view{view}-{start}.safetensors"

    def _there(self, view: int, start: int) -> bool:
        try:
            with safe_open(self._file(view, start), "pt") as file:
                return dict(file.metadata() or {}).get("key") == self._key
        except Exception:  # noqa: BLE001 - safetensors raises its own kinds
            return False

    def _read(self, view: int) -> dict[str, Tensor]:
        shards: dict[str, list[Tensor]] = {}
        for start in range(0, len(self.samples), _SHARD):
            with safe_open(self._file(view, start), "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    shards.setdefault(name, []).append(file.get_tensor(name))
        return {name: torch.cat(parts) for name, parts in shards.items()}


def _cut(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]


def _packed(logits: Tensor) -> dict[str, Tensor]:
    """N x K logits as they are stored."""
    if logits.shape[1] <= _FULL:
        # Only differences between a sample's logits matter; near zero float16 is finest.
        return {"logits": (logits - logits.mean(1, keepdim=True)).clamp(-6e4, 6e4).half()}
    scores = torch.log_softmax(logits.double(), 1)
    top, classes = scores.topk(_TOP)
    others = scores.scatter(1, classes, -torch.inf)
    rest = _SOFT * ((others / _SOFT).logsumexp(1, keepdim=True) - math.log(scores.shape[1] - _TOP))
    return {"top": top.half(), "classes": classes.int(), "rest": rest.clamp_min(-6e4).half()}


def _unpacked(stored: dict[str, Tensor], classes: int) -> Tensor:
    if "logits" in stored:
        return stored["logits"].float()
    return stored["rest"].float().repeat(1, classes).scatter(1, stored["classes"].long(), stored["top"].float())
