"""The contract of a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from compressor.core.artifact import Engine
from compressor.core.models import Model, OnnxModel
from compressor.core.signature import Signature
from compressor.core.target import Target

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["Backend", "QdqRules", "Session"]


@dataclass(frozen=True, slots=True)
class QdqRules:
    """Where a runtime wants QuantizeLinear/DequantizeLinear pairs, and of what kind.

    The placement pass (`compressor.lowering.placement`) reads this table and knows no runtime.
    """

    quantizable_ops: frozenset[str]
    """Operators that run in integers: their float inputs are quantised."""
    quantize_outputs: frozenset[str]
    """Those of them whose outputs are quantised too, after a fused activation."""
    passthrough_ops: frozenset[str]
    """Operators that only move values, such as Slice: their outputs have the scale of their input."""
    activation_dtype: str
    """``uint8`` or ``int8``."""
    symmetric_activations: bool
    """Whether the zero point of activations is the middle of their integers."""
    weight_bits: int
    """Bits of an integer weight: 8, or 7 where sums of 8-bit products saturate."""
    per_channel: frozenset[str]
    """Operators whose weights have a scale for each output channel; the weights of the others have one scale."""
    integer_bias: frozenset[str]
    """Operators whose bias must be int32, at the scale of their products; the others keep a float bias."""
    fold_activations: bool
    """Whether a Relu or Clip is dropped where the quantiser's own clamping does the same."""
    keep_float_outputs: bool
    """Whether the graph's outputs stay float, unquantised."""
    passthrough_in_integers: bool = True
    """Whether ``passthrough_ops`` work on integers; else they work on floats, and each integer op that reads their
    output has a pair of its own."""
    skip_branch: frozenset[str] = frozenset()
    """Operators, such as Add, that a convolution's kernel does in passing: only their other input is quantised."""
    shared_scale_ops: frozenset[str] = frozenset()
    """Operators, such as Concat, whose inputs and output share a scale where an integer op reads the output."""
    min_channels: int = 0
    """Convolutions with fewer input or output channels stay float, unless both are multiples of 8."""
    min_transposed_group_channels: int = 0
    """Grouped transposed convolutions with fewer input or output channels in a group stay float."""
    quantize_gemv: bool = True
    """Whether products of one row a sample, such as a classifier's, run in integers."""
    integer_weights: bool = True
    """Whether weights are stored as integers; else as floats, with a QuantizeLinear of their own."""
    folds_packed_weights: bool = True
    """Whether the runtime unpacks weights of a few bits when it loads the file."""
    integer_tables: bool = False
    """Whether embedding tables are stored as integers, and the rows that are read dequantised."""
    rounds_float_weights: frozenset[str] = frozenset()
    """Operators whose float weights the runtime rounds to integers, unasked, where they read integers of one scale."""
    float_dtype: str = "float32"
    """What all other operators compute in, and scales are stored in: ``float32`` or ``float16``."""


class Session(Protocol):
    """A loaded model."""

    @property
    def signature(self) -> Signature: ...

    def __call__(self, feeds: Feeds) -> Outputs:
        """Map arrays by input name to arrays by output name, all outputs in the model's order."""
        ...


class Backend(Protocol):
    """A runtime. One file of ``backends/`` each."""

    name: ClassVar[str]

    def version(self) -> str:
        """The version installed here. Raises Unavailable, with the install line, where there is none."""
        ...

    def rules(self, target: Target) -> QdqRules: ...

    def build(self, onnx: OnnxModel, model: Model, target: Target, workdir: Path) -> Engine:
        """Make what the target's runtime loads, for the sizes and ranges of ``model``'s free axes.

        Raises VerificationFailed where the runtime refuses the graph.
        """
        ...

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        """Load a file. ``exact`` evaluates quantisation in float, free of this CPU's kernels."""
        ...

    def memory(self, path: Path) -> int | None:
        """Bytes of the constants that a loaded file holds, unpacked; None where the runtime does not tell."""
        ...
