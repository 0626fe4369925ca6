"""The signature of a network: its named inputs and outputs, their types and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.core.errors import UsageError
from compressor.core.images import InputSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Feeds = Mapping[str, NDArray[Any]]
    """Arrays by the names of a network's inputs."""
    Outputs = dict[str, NDArray[Any]]
    """Arrays by the names of a network's outputs."""

__all__ = ["Signature", "TensorSpec", "axis_name", "image_signature"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: its name, NumPy dtype and shape, whose entries are sizes or names of free axes."""

    name: str
    dtype: str
    """As NumPy spells it: ``float32``, ``int64``, ``bool``."""
    shape: tuple[int | str, ...]

    @property
    def free(self) -> tuple[str, ...]:
        """The names of its free axes, in order."""
        return tuple(axis for axis in self.shape if isinstance(axis, str))

    @property
    def is_image(self) -> bool:
        """Whether it may be a batch of images: N x C x H x W in float32, C of 1 or 3 known."""
        return self.dtype == "float32" and len(self.shape) == 4 and self.shape[1] in (1, 3)

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with each free axis of the size that ``sizes`` has for it. Raises UsageError where it has none."""
        if missing := [axis for axis in self.free if axis not in sizes]:
            raise UsageError(
                f"the size of axis {missing[0]!r} of {self.name} is not known: {self}",
                hint=f"--input {self.name}=" + "x".join(str(a) if isinstance(a, int) else "N" for a in self.shape[1:]),
            )
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in self.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a network, in its own order. Names are unique among each."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def input(self) -> TensorSpec:
        """The first input: the only one of most networks."""
        return self.inputs[0]

    @property
    def output(self) -> TensorSpec:
        """The first output."""
        return self.outputs[0]

    @property
    def scores(self) -> TensorSpec:
        """The first output of rank 2, a score for each class; the first output where there is none."""
        return next((spec for spec in self.outputs if len(spec.shape) == 2), self.output)

    @property
    def batch(self) -> str | None:
        """The free axis that counts samples: the first of every input. None where there is none such."""
        first = {spec.shape[0] if spec.shape else None for spec in self.inputs}
        axis = first.pop() if len(first) == 1 else None
        return axis if isinstance(axis, str) else None

    @property
    def samples(self) -> int | None:
        """Samples that one run takes: None where the batch is free, else a fixed number."""
        return None if self.batch is not None else self.rows or 1

    @property
    def rows(self) -> int | None:
        """The fixed number of samples along the first axis of the one input; None where that axis counts no samples.

        It counts them where it is 1, or where the first axis of each output is free or a multiple of it.
        """
        shape = self.input.shape
        if len(self.inputs) != 1 or not shape or not isinstance(shape[0], int):
            return None
        made = [spec.shape[0] if spec.shape else None for spec in self.outputs]
        counted = len(shape) > 1 and all(isinstance(n, str) or (n and n % shape[0] == 0) for n in made)
        return shape[0] if shape[0] == 1 or counted else None

    @property
    def free(self) -> tuple[str, ...]:
        """The names of all free axes of the inputs, each once, in order."""
        return tuple(dict.fromkeys(axis for spec in self.inputs for axis in spec.free))

    def feeds_of(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """The shape of each input with its free axes sized. Raises UsageError as `TensorSpec.sized`."""
        return {spec.name: spec.sized(sizes) for spec in self.inputs}

    def check(self, feeds: Feeds) -> None:
        """Raise UsageError where ``feeds`` are not this network's inputs, by name, dtype and fixed sizes."""
        names = [spec.name for spec in self.inputs]
        if set(feeds) != set(names):
            raise UsageError(
                f"the network takes {', '.join(names)}, and was given {', '.join(feeds) or 'nothing'}",
                hint="name the arrays as the inputs are named",
            )
        for spec in self.inputs:
            array = feeds[spec.name]
            fits = len(spec.shape) == array.ndim and all(
                isinstance(want, str) or want == have for want, have in zip(spec.shape, array.shape, strict=True)
            )
            if str(array.dtype) != spec.dtype or not fits:
                raise UsageError(
                    f"input {spec.name} is {array.dtype} {list(array.shape)}, and the network takes {spec}",
                    hint="give arrays of its type and shape",
                )

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """``{"inputs": [{"name", "dtype", "shape"}], "outputs": […]}``."""
        return {
            "inputs": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in self.inputs],
            "outputs": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in self.outputs],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Signature:
        """Read what `to_json` wrote. Raises KeyError or TypeError for anything else."""

        def specs(entries: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(str(e["name"]), str(e["dtype"]), tuple(e["shape"])) for e in entries)

        return cls(specs(document["inputs"]), specs(document["outputs"]))

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"


def axis_name(text: str) -> str:
    """A name for a free axis, of letters, digits, ``_``, ``.`` and ``-``."""
    return re.sub(r"[^\w.-]", "_", text) or "axis"


def image_signature(
    input: InputSpec, outputs: int = 0, *, upscale_factor: int | None = None, batch: int | None = None
) -> tuple[Signature, dict[str, int]]:
    """The signature of a network of one image, ``input`` to ``output``, and the usual sizes of its free axes.

    ``outputs`` are scores (N x K); with an ``upscale_factor`` the output is an image, and height and width are free.
    ``batch`` is a fixed one; None leaves it free.
    """
    first: int | str = "batch" if batch is None else batch
    sizes = {"batch": 1} if batch is None else {}
    if upscale_factor is None:
        made = TensorSpec("output", "float32", (first, outputs))
        return Signature((TensorSpec("input", "float32", (first, *input.shape)),), (made,)), sizes
    sides = ("height", "width")
    enlarged = tuple(side if upscale_factor == 1 else f"{upscale_factor}*{side}" for side in sides)
    made = TensorSpec("output", "float32", (first, input.channels, *enlarged))
    source = TensorSpec("input", "float32", (first, input.channels, *sides))
    return Signature((source,), (made,)), {**sizes, "height": input.height, "width": input.width}
