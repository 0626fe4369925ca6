"""Every type that flows through the compiler, and every way it can fail.

Standard library only, so that any room may import it at once. All types are
frozen: a pass never changes what it was given, it returns what it made.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Json = Any
"""A JSON value: what may be written to ``report.json`` as it is."""

SLOTS = ("teacher", "student", "reference", "onnx", "engine", "measurements", "bundle")
"""The slots of an `Artifact` that a pass may need or give."""

PRECISIONS = ("fp32", "fp16", "int8")
"""Every precision that a target may name, widest first."""


# -- failing ----------------------------------------------------------------------------------


class Exit(enum.IntEnum):
    """The exit codes of ``compress``; every one is a promise to the scripts that call it."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    MISSED = 3
    INCONCLUSIVE = 4
    UNAVAILABLE = 5
    VERIFICATION = 6
    UNSAFE = 7
    STOPPED = 130


class CompressError(Exception):
    """What was wrong, and the mend. The command line turns ``code`` into the exit code."""

    code: ClassVar[Exit] = Exit.INTERNAL

    def __init__(self, what: str, *, mend: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


class UsageError(CompressError):
    """A flag, a configuration, a model file or data that cannot be used as given."""

    code = Exit.USAGE


class BudgetMissed(CompressError):
    """The run finished, but a budget or the allowed drop was missed."""

    code = Exit.MISSED


class Unavailable(CompressError):
    """The target's runtime or device is not here."""

    code = Exit.UNAVAILABLE


class VerificationFailed(CompressError):
    """What was made does not do what it should."""

    code = Exit.VERIFICATION


class UnsafeInput(CompressError):
    """A file that would run code, or lies about its size."""

    code = Exit.UNSAFE


# -- small ideas ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The shape of one sample: channels, height and width in pixels."""

    channels: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """Read ``3x224x224``. Raises UsageError for anything else."""
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(p.isdecimal() and 0 < int(p) <= 16384 for p in parts):
            raise UsageError(
                f"not an input size: {text!r}",
                mend="write CHANNELSxHEIGHTxWIDTH, such as 3x224x224",
            )
        return cls(*(int(p) for p in parts))

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.height, self.width)

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True, slots=True)
class Normalization:
    """How 8-bit pixels become a network's input: ``(pixel * scale - mean) / std`` per channel.

    ``scale`` is 1/255 for networks that think in [0, 1] and 1 for those that think in 0-255.
    """

    name: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def range(self) -> tuple[float, float]:
        """The range of the scaled pixels before mean and std."""
        return (0.0, 255.0 * self.scale)


@dataclass(frozen=True, slots=True)
class Metric:
    """A task's quality figure: a fraction for ``top1``, dB for ``psnr``; higher is better."""

    name: str
    value: float
    samples: int
    fingerprint: str
    """The fingerprint of the samples judged on; figures are comparable only where it agrees."""
    source: str
    """For people: which samples these were."""
    also: Mapping[str, float] = field(default_factory=dict)
    """Further figures on the same samples, such as ``ssim``; higher is better."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds for one inference at batch 1. A percentile without enough samples is None."""

    median: float
    p90: float | None
    p99: float | None
    samples: int
    threads: int
    estimated: bool = False
    raw: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    """The samples themselves, one tuple a block."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one model costs and is worth. Fields marked volatile differ from run to run."""

    params: int
    macs: int
    bytes: int
    metric: Metric | None
    latency: Latency | None = field(metadata={"volatile": True})


@dataclass(frozen=True, slots=True)
class Measurements:
    """Teacher and result, taken in one run, and the ratio of their latencies."""

    teacher: Measurement
    result: Measurement
    speedup: float | None = field(default=None, metadata={"volatile": True})
    """Median over blocks of teacher's latency / result's."""
    speedup_interval: tuple[float, float] | None = field(default=None, metadata={"volatile": True})
    """Its 90 % bootstrap interval."""
    why_no_metric: str | None = None
    why_no_latency: str | None = None


# -- where, and how ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where the result runs. One TOML file of ``targets/`` each."""

    name: str
    title: str
    backend: str
    builds: str
    """``here``, or ``on-device``."""
    arch: str
    """``x86_64``, ``aarch64``; ``any`` for the machine at hand."""
    precisions: tuple[str, ...]
    opset: int
    requires: tuple[str, ...] = ()
    """CPU features, in the spelling of /proc/cpuinfo."""
    native_float: str = "fp32"
    """The narrowest float precision that the target computes in natively."""
    threads: int = 1
    memory_mb: int | None = None
    width_multiple: int = 8
    """Channel counts that the target's kernels like are multiples of this."""
    quirks: tuple[str, ...] = ()
    """Facts of the hardware that a backend must know, such as ``u8s8-saturates``."""
    runtime: Mapping[str, str] = field(default_factory=dict)
    """Runtime packages and the versions needed, such as ``{"onnxruntime": ">=1.20"}``."""
    sources: tuple[str, ...] = ()
    """Where the values come from."""

    def __post_init__(self) -> None:
        if self.builds not in ("here", "on-device"):
            raise UsageError(f'target {self.name}: builds = "{self.builds}"', mend='write "here" or "on-device"')
        if not 1 <= self.width_multiple <= 64:
            raise UsageError(
                f"target {self.name}: width_multiple = {self.width_multiple}", mend="write a whole number from 1 to 64"
            )
        for precision in (*self.precisions, self.native_float):
            if precision not in PRECISIONS:
                raise UsageError(
                    f"target {self.name}: unknown precision {precision!r}",
                    mend=f"the precisions are {', '.join(PRECISIONS)}",
                )


@dataclass(frozen=True, slots=True)
class PassSpec:
    """One entry of a profile: which pass, with which settings."""

    kind: str
    settings: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """How a model is compressed: the ordered passes. One TOML file of ``profiles/`` each."""

    name: str
    title: str
    passes: tuple[PassSpec, ...]
    options: Mapping[str, Json] = field(default_factory=dict)
    """Options of ``compress run`` that this profile brings along; flags win over them."""
    resolved: bool = False
    """Whether this is a plan as it ran (``resolved.toml``): then no compress.toml has a say in it again."""


# -- what a run handles -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """A torch model on disk: its architecture, and its weights as safetensors."""

    family: str
    """A file of ``models/``, the user's own ``package.module:callable``, or ``trusted:FORM``: code in a file."""
    settings: Mapping[str, Json]
    """The family's own fields: what `models` needs to build it again; of a trusted file its path and SHA-256."""
    weights: Path
    sha256: str
    params: int
    macs: int
    outputs: int
    input: InputSpec
    normalization: Normalization
    enlarges: int | None = None
    """Of a network that makes images: how many times as high and wide as its input; then any height and width will
    do, and ``outputs`` are channels."""


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


@dataclass(frozen=True, slots=True)
class Engine:
    """What the target's runtime loads: ``ready``, or ``pending`` until ``todo`` is done."""

    backend: str
    path: Path
    sha256: str
    status: str
    todo: str | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A deployable folder that was loaded from disk, run and checked."""

    path: Path
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """What one pass did: a line of the report."""

    kind: str
    settings: Mapping[str, Json]
    seconds: float
    cached: bool
    metrics: Mapping[str, Json]
    warnings: tuple[str, ...]
    pinned: Mapping[str, Json] = field(default_factory=dict)
    """As in `Result`."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What has been made so far; each slot is empty until a pass fills it."""

    teacher: Model
    student: Model | None = None
    reference: OnnxModel | None = None
    """The teacher's fp32 export: what the result is judged against."""
    onnx: OnnxModel | None = None
    """The result's graph."""
    engine: Engine | None = None
    measurements: Measurements | None = None
    bundle: Bundle | None = None
    log: tuple[Record, ...] = ()

    @property
    def result(self) -> Model:
        """The model that is being shipped: the student, or the teacher itself."""
        return self.student or self.teacher


# -- what a pass may read ---------------------------------------------------------------------


class Split(Protocol):
    """Samples of one half of a data source, already of the network's input size."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[np.int64]) -> Split:
        """Some of the samples, with a name and a fingerprint of their own."""
        ...

    def pixels(self, indices: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """The samples (all if None) before normalisation, N x C x H x W."""
        ...

    def batches(
        self, size: int, indices: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield (N x C x H x W normalised float32, N labels), ``size`` samples at a time, in order."""
        ...


class Data(Protocol):
    """A data source, split. ``train`` and ``evaluate`` never share a sample."""

    @property
    def task(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def train(self) -> Split | None: ...

    @property
    def evaluate(self) -> Split: ...


class Progress(Protocol):
    """Where a long pass says how far it is."""

    def __call__(self, message: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """All that a pass may read besides the artifact."""

    target: Target
    profile: Profile
    data: Data | None
    workdir: Path
    """This pass's own folder: all that it writes goes here."""
    seed: int
    device: str
    progress: Progress
    memo: Callable[[str, Json, Callable[[], Json]], Json]
    """``memo(name, key, compute)``: the JSON value of ``compute()``, kept across runs under ``key``."""
    kept: Callable[[str, Json], Path]
    """``kept(name, key)``: a folder that stays from run to run, for what is costly and can be made again."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass hands back: the next artifact, and what happened."""

    artifact: Artifact
    metrics: Mapping[str, Json] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    pinned: Mapping[str, Json] = field(default_factory=dict)
    """Settings with which it would do the same again, where its own leave something to the device's state."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is known of a run before any work: all that a pass may judge its plan by."""

    target: Target
    task: str
    has_train: bool
    has_evaluate: bool


@runtime_checkable
class Pass(Protocol):
    """One step. A frozen dataclass whose fields are its settings."""

    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    gives: ClassVar[frozenset[str]]
    volatile: ClassVar[bool]
    """True where the device's state changes the outcome: never answered from the cache."""

    @property
    def collective(self) -> bool:
        """Whether all processes of a run work on it together; else the first does, and the others read the result."""
        ...

    def check(self, prospect: Prospect) -> tuple[str, ...]:
        """What stands in the way, each with its mend; empty where the pass can run."""
        ...

    def run(self, artifact: Artifact, context: Context) -> Result: ...


# -- backends ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QdqRules:
    """Where a runtime wants QuantizeLinear/DequantizeLinear pairs, and of what kind.

    The placement pass (`compressor.quant.placement`) reads this table and knows no runtime.
    """

    compute: frozenset[str]
    """Ops that run in integers: their float inputs are quantised."""
    quantize_outputs: frozenset[str]
    """Those of them whose outputs are quantised too (after a fused activation)."""
    moves: frozenset[str]
    """Ops that only move values: they run on the integers, with their input's scale."""
    activation_dtype: str
    """``uint8`` or ``int8``."""
    symmetric_activations: bool
    weight_bits: int
    """7 keeps a bit free where the target's 8-bit products saturate."""
    per_channel: frozenset[str]
    """Ops whose weights have a scale for each output channel; the others, one a tensor."""
    integer_bias: frozenset[str]
    """Ops whose bias must be int32, at the scale of their products; elsewhere a bias stays float."""
    fold_activations: bool
    """Whether a Relu or Clip that the quantiser's own clamping does anyway is dropped."""
    keep_float_outputs: bool
    """Whether the graph's outputs stay float, unquantised."""


class Session(Protocol):
    """A loaded model."""

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map N x C x H x W to the first output, one row a sample."""
        ...


class Backend(Protocol):
    """A runtime. One file of ``backends/`` each."""

    name: ClassVar[str]

    def version(self) -> str:
        """The version installed here. Raises Unavailable, with the install line, where there is none."""
        ...

    def rules(self, target: Target) -> QdqRules: ...

    def build(self, onnx: OnnxModel, target: Target, workdir: Path) -> Engine:
        """Make what the target's runtime loads. Raises VerificationFailed where it refuses the graph."""
        ...

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        """Load a file. ``exact`` evaluates quantisation in float, free of this CPU's kernels."""
        ...
