"""A teacher's outputs, computed once and stored for a fixed set of augmented views (dataset reinforcement)."""

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
from compressor.train.distill_config import ALL_SCORES
from compressor.train.samples import Samples

__all__ = ["SoftTargets"]

_SHARD = 8192
"""Samples in a file: the most that an interrupted run has to compute again."""
_TOP = 32
"""With more classes, the number of the highest log-probabilities that are stored."""
_TAIL_TEMPERATURE = 4.0
"""The temperature at which the other classes' common log-probability gives them their true total probability."""
_DRAWN_BYTES = 36
"""Bytes of a sample's stored augmentation."""
_BATCH = 256


@dataclass
class SoftTargets:
    """Training samples with the teacher's logits for ``views`` augmented views of each.

    Dataset reinforcement, Faghri et al. 2023, arXiv 2303.08983. An epoch reads the view ``epoch % views``. A file
    holds the augmentation of its samples and their logits as float16. With more than 128 classes it holds the 32
    highest log-probabilities, and one value that stands for every other class; at T = 4, the usual temperature of
    distillation, the other classes keep their total probability. An existing file for the same inputs is kept.
    """

    samples: Samples
    views: int
    folder: Path
    fingerprint: str
    """Identifies the teacher and how its outputs are computed."""
    _views: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inputs = [self.fingerprint, self.samples.split.fingerprint, repr(self.samples.augmentation), self.samples.seed]
        self._key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()

    @staticmethod
    def affordable_views(samples: int, classes: int, limit: int) -> int:
        """The number of views that fit ``limit`` bytes. Raises UsageError where not even one does."""
        size = samples * (_DRAWN_BYTES + (2 * classes if classes <= ALL_SCORES else 6 * _TOP + 2))
        if size > limit:
            raise UsageError(
                f"the teacher's outputs for {samples:,} samples take {size:,} bytes a view, more than distill.cache",
                hint=f'set distill.cache = "{math.ceil(size / 1e6)}MB"',
            )
        return limit // size

    @property
    def stored_views(self) -> int:
        """The number of views, counted from the first, that are stored already."""
        missing = {view for view, start in self._shards() if not self._is_stored(view, start)}
        return min(missing, default=self.views)

    def prepare(self, predict: Callable[[Tensor], Tensor], progress: Progress) -> int:
        """Compute and store the outputs that are missing; return the number of samples that ``predict`` was given."""
        missing = [shard for shard in self._shards() if not self._is_stored(*shard)]
        for number, (view, start) in enumerate(missing):
            progress("teacher's outputs", number, len(missing))
            rows = np.arange(start, min(start + _SHARD, len(self.samples)))
            drawn = self.samples.drawn(view)
            logits = torch.cat([predict(self.samples.batch(part, drawn)[0]).float() for part in _batches(rows)])
            tensors = _pack(logits) | {"drawn": torch.from_numpy(drawn[rows])}
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
        return images, labels, _unpack({name: each[at] for name, each in stored.items()}, self.samples.classes)

    @property
    def stored_bytes(self) -> int:
        """The total size of the files."""
        return sum(self._file(*shard).stat().st_size for shard in self._shards())

    def _shards(self) -> list[tuple[int, int]]:
        return [(view, start) for view in range(self.views) for start in range(0, len(self.samples), _SHARD)]

    def _file(self, view: int, start: int) -> Path:
        return self.folder / f"view{view}-{start}.safetensors"

    def _is_stored(self, view: int, start: int) -> bool:
        try:
            with safe_open(self._file(view, start), "pt") as file:
                return dict(file.metadata() or {}).get("key") == self._key
        except Exception:  # noqa: BLE001 - safetensors raises its own kinds
            return False

    def _read(self, view: int) -> dict[str, Tensor]:
        shards: dict[str, list[Tensor]] = {}
        for start in range(0, len(self.samples), _SHARD):
            with safe_open(self._file(view, start), "pt") as file:
                for name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                    shards.setdefault(name, []).append(file.get_tensor(name))
        return {name: torch.cat(parts) for name, parts in shards.items()}


def _batches(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]


def _pack(logits: Tensor) -> dict[str, Tensor]:
    """The tensors that are stored for N x K logits."""
    if logits.shape[1] <= ALL_SCORES:
        # Only differences between a sample's logits matter; near zero float16 is finest.
        return {"logits": (logits - logits.mean(1, keepdim=True)).clamp(-6e4, 6e4).half()}
    scores = torch.log_softmax(logits.double(), 1)
    top, classes = scores.topk(_TOP)
    others = scores.scatter(1, classes, -torch.inf)
    total = (others / _TAIL_TEMPERATURE).logsumexp(1, keepdim=True)
    rest = _TAIL_TEMPERATURE * (total - math.log(scores.shape[1] - _TOP))
    return {"top": top.half(), "classes": classes.int(), "rest": rest.clamp_min(-6e4).half()}


def _unpack(stored: dict[str, Tensor], classes: int) -> Tensor:
    """The N x K logits that `_pack` stored."""
    if "logits" in stored:
        return stored["logits"].float()
    return stored["rest"].float().repeat(1, classes).scatter(1, stored["classes"].long(), stored["top"].float())
