"""What a teacher's network is known by, be it a torch module or an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from compressor.core import InputSpec, Json, Signature, TensorSpec, TorchSource

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["Network", "free_sides", "image_of", "layout_of", "sample_sizes"]


class Network(Protocol):
    """A network in memory."""

    @property
    def signature(self) -> Signature: ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """The usual size of each free axis."""
        ...

    @property
    def ranges(self) -> Mapping[str, tuple[int, int]]:
        """The least and the most of each free axis of which that was said."""
        ...

    @property
    def params(self) -> int: ...

    @property
    def macs(self) -> int: ...

    @property
    def family(self) -> str:
        """Its family or constructor; ``onnx`` of a graph."""
        ...

    @property
    def settings(self) -> Mapping[str, Json]:
        """The family's own fields; none of a graph."""
        ...

    @property
    def task(self) -> str | None:
        """The task of its family, where it is of a known one."""
        ...

    @property
    def default_normalization(self) -> str | None:
        """What the published teachers of its family were trained with."""
        ...

    @property
    def divisor(self) -> int:
        """What height and width of an image input must be divisible by."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was read, for people."""
        ...

    def __call__(self, feeds: Feeds) -> Outputs:
        """The outputs in floats, by name."""
        ...

    def write(self, folder: Path) -> tuple[TorchSource | None, Path | None, str]:
        """Keep it in ``folder``: its torch source or its graph, and the SHA-256 of the file."""
        ...


def layout_of(signature: Signature) -> str:
    """The layout of the one input, told by which of its axes may be colours; ``nchw`` where that does not tell."""
    shape = signature.input.shape
    last = len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
    return "nhwc" if last and len(signature.inputs) == 1 else "nchw"


def image_of(signature: Signature, sizes: Mapping[str, int], layout: str = "nchw") -> InputSpec | None:
    """The size of the one input, where that is float32 of rank 4; None of any other network."""
    if len(signature.inputs) != 1 or signature.input.dtype != "float32" or len(signature.input.shape) != 4:
        return None
    _, *shape = signature.input.sized({**dict.fromkeys(signature.free, 1), **sizes})
    return InputSpec(shape[2], shape[0], shape[1]) if layout == "nhwc" else InputSpec(*shape)


def sample_sizes(network: Network) -> str:
    """The usual size of one sample, as ``--input`` takes it: ``3x32x32``, or ``a=3x32x32, b=77`` of several inputs."""
    signature, shapes = network.signature, network.signature.feeds_of(network.sizes)
    rows = 1 if signature.batch is not None or signature.samples == 1 else 0
    sizes = {name: "x".join(map(str, shape[rows:])) for name, shape in shapes.items()}
    return next(iter(sizes.values())) if len(sizes) == 1 else ", ".join(f"{n}={size}" for n, size in sizes.items())


def free_sides(signature: Signature, image: InputSpec) -> tuple[Signature, dict[str, int]]:
    """``signature`` with height and width of its image free, and of outputs that are whole multiples of it."""
    source = replace(signature.input, shape=(*signature.input.shape[:2], "height", "width"))

    def freed(spec: TensorSpec) -> TensorSpec:
        if len(spec.shape) != 4 or not all(isinstance(n, int) for n in spec.shape[2:]):
            return spec
        times, rest = divmod(int(spec.shape[2]), image.height)
        if rest or times < 1 or spec.shape[3] != times * image.width:
            return spec
        sides = ("height", "width") if times == 1 else (f"{times}*height", f"{times}*width")
        return replace(spec, shape=(*spec.shape[:2], *sides))

    outputs = tuple(map(freed, signature.outputs))
    return Signature((source,), outputs), {"height": image.height, "width": image.width}
