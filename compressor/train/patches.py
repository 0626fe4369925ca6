"""Image patches for the training of super-resolution, with the teacher's output for them."""

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
from compressor.data import ImagePairs
from compressor.preprocessing import normalize

__all__ = ["Patches"]

_WHOLE = 1 << 17
"""Pixels of the largest low-resolution image that the teacher takes whole; larger ones are tiled with overlap."""
_KEY = "enlarged"


@dataclass(frozen=True)
class Patches:
    """Random patches of ``side`` x ``side`` low-resolution pixels; an image is drawn in proportion to its area.

    An epoch has as many patches as would cover all images once. With ``symmetries`` each is rotated and flipped in
    one of the eight ways. The teacher runs once on each whole image, and its output is stored in ``folder``. The
    output for a patch is cut out of it, and so has the context that the patch alone would lack. (A rotated patch
    gets the rotated output.) Without a folder the outputs are zeros.
    """

    split: ImagePairs
    side: int
    symmetries: bool
    seed: int
    folder: Path | None
    _outputs: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def samples(self) -> Self:
        """The patches themselves: see `compressor.train.distillation_data.DistillationData`."""
        return self

    @property
    def input(self) -> InputSpec:
        """The size of a patch."""
        return InputSpec(self.split.input.channels, self.side, self.side)

    def __len__(self) -> int:
        return max(1, sum(height * width for height, width in self._sizes) // self.side**2)

    def plain(self, rows: NDArray[np.int64]) -> Tensor:
        """Normalised patches N x C x side x side, neither rotated nor flipped."""
        return self._small(self._drawn(-1)[rows])

    def batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised patches N x C x side x side; the true and the teacher's high-resolution ones, in [0, 1]."""
        places = self._drawn(epoch)[rows]
        small, scale = self._small(places), self.split.upscale_factor
        large = torch.from_numpy(np.stack([self._cut(self._pairs[p[0]][1], p, scale) for p in places])).float() / 255
        outputs = torch.zeros_like(large)
        if self.folder is not None:
            outputs = torch.stack([self._cut(self._output(int(p[0])), p, scale) for p in places]).float()
        moved = [torch.stack([_symmetry(x, int(p[3])) for x, p in zip(each, places, strict=True)])
                 for each in (small, large, outputs)]  # fmt: skip
        return moved[0], moved[1], moved[2]

    def prepare(self, predict: Callable[[Tensor], Tensor], progress: Progress) -> int:
        """Compute and store the outputs that are missing; return the number of images that ``predict`` was given."""
        assert self.folder is not None
        missing = [index for index in range(len(self.split)) if not self._is_stored(index)]

        def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            made: NDArray[np.float32] = predict(torch.from_numpy(batch)).numpy()
            return made

        for number, index in enumerate(missing):
            progress("teacher's outputs", number, len(missing))
            image = self._normalised(self._pairs[index][0][None])[0]
            made = cropped(run, image, self.split.upscale_factor, most=_WHOLE)
            write(self._file(index), save({_KEY: torch.from_numpy(made).half()}))
        return len(missing)

    @property
    def stored_bytes(self) -> int:
        """The total size of the files."""
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
        """Image, top, left and symmetry of each of an epoch's patches, N x 4; epoch -1 has no symmetries."""
        generator = np.random.default_rng([self.seed, 7, epoch + 1])
        sizes = np.array(self._sizes, np.int64)
        areas = sizes.prod(1)
        chosen = generator.choice(len(sizes), len(self), p=areas / areas.sum())
        places = generator.integers(0, sizes[chosen] - self.side + 1)
        moved = self.symmetries and epoch >= 0
        symmetries = generator.integers(0, 8, len(self)) if moved else np.zeros(len(self), np.int64)
        return np.column_stack([chosen, places, symmetries])

    def _small(self, places: NDArray[np.int64]) -> Tensor:
        """Normalised low-resolution patches."""
        cut = np.stack([self._cut(self._pairs[int(place[0])][0], place, 1) for place in places])
        return torch.from_numpy(self._normalised(cut))

    def _cut(self, image: Any, place: NDArray[np.int64], scale: int) -> Any:
        top, left, side = scale * int(place[1]), scale * int(place[2]), scale * self.side
        return image[:, top : top + side, left : left + side]

    def _normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return normalize(pixels, self.split.normalization)

    def _output(self, index: int) -> Tensor:
        """The teacher's output for a whole image."""
        if index not in self._outputs:
            with safe_open(self._file(index), "pt") as file:
                self._outputs[index] = file.get_tensor(_KEY)
        return self._outputs[index]

    def _file(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"photograph{index}.safetensors"

    def _is_stored(self, index: int) -> bool:
        try:
            with safe_open(self._file(index), "pt") as file:
                wanted = list(self._pairs[index][1].shape)
                return bool(file.get_slice(_KEY).get_shape() == wanted)
        except Exception:  # noqa: BLE001 - safetensors raises its own kinds
            return False


def _symmetry(image: Tensor, number: int) -> Tensor:
    """Apply one of the eight symmetries of a square to C x H x H."""
    rotated = torch.rot90(image, number % 4, (1, 2))
    return rotated.flip(2) if number >= 4 else rotated
