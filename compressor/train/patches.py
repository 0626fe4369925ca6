"""Patches of photographs to learn super-resolution from, with what the teacher makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from compressor.atomic import write
from compressor.bundle.runner import cropped
from compressor.core import InputSpec, Progress, UsageError
from compressor.data import PreparedPhotographs
from compressor.preprocessing import normalize

__all__ = ["Patches"]

_WHOLE = 1 << 17
"""Pixels of a small image that the teacher takes whole; larger ones in parts, which overlap."""
_KEY = "enlarged"


@dataclass(frozen=True)
class Patches:
    """Patches of ``side`` x ``side`` small pixels, anywhere in the photographs, larger ones the more often.

    An epoch has as many as would cover all photographs once. They are turned and mirrored in the eight ways where
    ``turned``. The teacher enlarges each photograph whole, once, into ``folder``: whatever patch is drawn, its
    answer is cut from there, with all the surroundings known that a patch alone would lack. (Of a turned patch it is
    the turned answer.) Without a folder answers are left blank.
    """

    split: PreparedPhotographs
    side: int
    turned: bool
    seed: int
    folder: Path | None
    _large: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def samples(self) -> Self:
        """What `compressor.train.distil.Taught` calls so."""
        return self

    @property
    def input(self) -> InputSpec:
        """Of a patch."""
        return InputSpec(self.split.input.channels, self.side, self.side)

    def __len__(self) -> int:
        return max(1, sum(height * width for height, width in self._sizes) // self.side**2)

    def plain(self, rows: NDArray[np.int64]) -> Tensor:
        """Patches as they are, normalised: N x C x side x side."""
        places = self._drawn(-1)[rows]
        return torch.from_numpy(self._normalised(np.stack([self._small(place) for place in places])))

    def batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Patches N x C x side x side, normalised; the large image's and the teacher's, larger, in [0, 1]."""
        places = self._drawn(epoch)[rows]
        small = torch.from_numpy(self._normalised(np.stack([self._small(place) for place in places])))
        scale = self.split.enlarges
        large = torch.from_numpy(np.stack([self._cut(self._pairs[p[0]][1], p, scale) for p in places])).float() / 255
        answers = torch.zeros_like(large)
        if self.folder is not None:
            answers = torch.stack([self._cut(self._answer(int(p[0])), p, scale) for p in places]).float()
        moved = [torch.stack([_turned(x, int(p[3])) for x, p in zip(each, places, strict=True)])
                 for each in (small, large, answers)]  # fmt: skip
        return moved[0], moved[1], moved[2]

    def prepare(self, answer: Callable[[Tensor], Tensor], progress: Progress) -> int:
        """Ask the teacher for what is not stored yet; return how many photographs it was asked about."""
        assert self.folder is not None
        missing = [index for index in range(len(self.split)) if not self._there(index)]

        def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            made: NDArray[np.float32] = answer(torch.from_numpy(batch)).numpy()
            return made

        for number, index in enumerate(missing):
            progress("teacher's answers", number, len(missing))
            image = self._normalised(self._pairs[index][0][None])[0]
            made = cropped(run, image, self.split.enlarges, most=_WHOLE)
            write(self._file(index), save({_KEY: torch.from_numpy(made).half()}))
        return len(missing)

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self._file(index).stat().st_size for index in range(len(self.split)))

    @cached_property
    def _pairs(self) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        pairs = [(small, large) for _, small, large in self.split.pairs()]
        least = min(min(small.shape[1:]) for small, _ in pairs)
        if least < self.side:
            raise UsageError(
                f"a small image of {self.split.name} has {least} pixels a side, a patch {self.side}",
                hint=f"remove it, or take smaller patches: --set distill.patch={least}",
            )
        return pairs

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        return [(small.shape[1], small.shape[2]) for small, _ in self._pairs]

    @lru_cache(maxsize=4)  # noqa: B019 - a training holds one of these, to its end
    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        """Photograph, top, left and turn of each of an epoch's patches; -1 is the epoch of plain ones."""
        generator = np.random.default_rng([self.seed, 7, epoch + 1])
        sizes = np.array(self._sizes, np.int64)
        areas = sizes.prod(1)
        chosen = generator.choice(len(sizes), len(self), p=areas / areas.sum())
        places = generator.integers(0, sizes[chosen] - self.side + 1)
        turns = generator.integers(0, 8, len(self)) if self.turned and epoch >= 0 else np.zeros(len(self), np.int64)
        return np.column_stack([chosen, places, turns])

    def _small(self, place: NDArray[np.int64]) -> NDArray[np.uint8]:
        cut: NDArray[np.uint8] = self._cut(self._pairs[int(place[0])][0], place, 1)
        return cut

    def _cut(self, image: Any, place: NDArray[np.int64], scale: int) -> Any:
        top, left, side = scale * int(place[1]), scale * int(place[2]), scale * self.side
        return image[:, top : top + side, left : left + side]

    def _normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return normalize(pixels, self.split.normalization)

    def _answer(self, index: int) -> Tensor:
        if index not in self._large:
            with safe_open(self._file(index), "pt") as file:
                self._large[index] = file.get_tensor(_KEY)
        return self._large[index]

    def _file(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"photograph{index}.safetensors"

    def _there(self, index: int) -> bool:
        try:
            with safe_open(self._file(index), "pt") as file:
                wanted = list(self._pairs[index][1].shape)
                return bool(file.get_slice(_KEY).get_shape() == wanted)
        except Exception:  # noqa: BLE001 - safetensors raises its own kinds
            return False


def _turned(image: Tensor, way: int) -> Tensor:
    """One of the eight symmetries of a square C x H x H."""
    turned = torch.rot90(image, way % 4, (1, 2))
    return turned.flip(2) if way >= 4 else turned
