"""Networks on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressor.core.errors import UsageError
from compressor.core.images import InputSpec, Normalization
from compressor.core.json import Json
from compressor.core.signature import Signature

__all__ = ["Model", "OnnxModel", "TorchSource"]


@dataclass(frozen=True, slots=True)
class TorchSource:
    """A torch network on disk: what builds it, and its weights as safetensors."""

    family: str
    """A file of ``models/``, the user's own ``package.module:callable``, or ``trusted:FORM``: code in a file."""
    settings: Mapping[str, Json]
    """The family's own fields: what builds it again; of a trusted file its path and SHA-256."""
    weights: Path
    exported: Path | None = None
    """Its float graph for the run's target, where that was made already."""


@dataclass(frozen=True, slots=True)
class Model:
    """A network on disk: torch code and its weights, or an ONNX graph (exactly one of ``source`` and ``graph``)."""

    source: TorchSource | None
    graph: Path | None
    """A cleaned, self-contained ONNX file."""
    sha256: str
    """The SHA-256 of the weights' file, or of the graph's."""
    params: int
    macs: int
    """Multiplications of one run at the usual sizes, by the number of samples that it takes."""
    signature: Signature
    sizes: Mapping[str, int]
    """The usual size of each free axis: what is timed, counted and verified. The batch's is 1."""
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The least and the most that a free axis may be, where that was said; an engine's profiles cover it."""
    normalization: Normalization | None = None
    """How 8-bit pixels become the image input; None where there is no image input, or its preparation is not known."""

    @property
    def family(self) -> str:
        """What built it: a family or a constructor; ``onnx`` of a graph."""
        return "onnx" if self.source is None else self.source.family

    def with_weights(self, weights: Path, sha256: str) -> Model:
        """The same torch network with other weights."""
        return replace(self, source=replace(self.torch, weights=weights, exported=None), sha256=sha256)

    @property
    def torch(self) -> TorchSource:
        """Its torch code. Raises UsageError of an ONNX graph."""
        if self.source is None:
            raise UsageError(
                "this needs the network's torch code, and the model is an ONNX graph",
                hint="give the PyTorch checkpoint, or a profile that works on graphs: --profile ptq or float",
            )
        return self.source

    @property
    def feed_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one run's inputs at the usual sizes, by name."""
        return self.signature.feeds_of(self.sizes)

    @property
    def input(self) -> InputSpec:
        """The usual size of its first input as an image. Raises UsageError where that is no N x C x H x W tensor."""
        shape = self.signature.input.sized(self.sizes)
        if len(shape) != 4:
            raise UsageError(f"the network takes no images: {self.signature.input}", hint="leave this out")
        if self.normalization is not None and self.normalization.layout == "nhwc":
            return InputSpec(shape[3], shape[1], shape[2])
        return InputSpec(*shape[1:])

    @property
    def outputs(self) -> int:
        """The size of the answer's second axis: scores of a classifier, channels of what makes images."""
        shape = self.signature.scores.shape
        size = shape[1] if len(shape) > 1 else 1
        return size if isinstance(size, int) else 0


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A self-contained ONNX file, and the one it was made from."""

    path: Path
    sha256: str
    precision: str
    opset: int
    made_from: OnnxModel | None = None

    def chain(self) -> tuple[OnnxModel, ...]:
        """This model and its ancestors, the first export first."""
        return (*(self.made_from.chain() if self.made_from else ()), self)
