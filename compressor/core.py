"""Every type that flows through the compiler, and every way it can fail.

Standard library only, so that any room may import it at once. All types are
frozen: a pass never changes what it was given, it returns what it made.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
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

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class UsageError(CompressError):
    """A flag, a configuration, a model file or data that cannot be used as given."""

    code = Exit.USAGE


class Incomplete(UsageError):
    """Some of what was given cannot be used; all else is done, and told of on stdout."""


class BudgetMissed(CompressError):
    """The run finished, but a budget or the allowed drop was missed."""

    code = Exit.MISSED


class Inconclusive(CompressError):
    """What was measured does not tell, or the device changed meanwhile: neither a pass nor a failure."""

    code = Exit.INCONCLUSIVE


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
                hint="write CHANNELSxHEIGHTxWIDTH, such as 3x224x224",
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
    """A task's quality figure: a fraction for ``top1``, dB for ``psnr``."""

    name: str
    value: float
    samples: int
    fingerprint: str
    """The fingerprint of the samples judged on; figures are comparable only where it agrees."""
    source: str
    """For people: which samples these were."""
    also: Mapping[str, float] = field(default_factory=dict)
    """Further figures on the same samples, such as ``ssim``; higher is better."""
    unit: str = ""
    """``%`` where ``value`` is a fraction that is printed as a percentage, ``dB``, or any other; empty for none."""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds for one inference at batch 1. A percentile without enough samples is None."""

    median: float
    p90: float | None
    p99: float | None
    samples: int
    threads: int
    estimated: bool = False
    interval: tuple[float, float] | None = None
    """Of an estimate: the least and the most that it may be."""
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
    memory_bytes: int | None = None
    """Of the constants that the runtime holds once the file is loaded; None where it does not tell."""


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
    stages: tuple[Stage, ...] = field(default=(), metadata={"volatile": True})
    """The graphs on the way, each with its measurement, the result's own last."""
    samples: Json = field(default=None, repr=False, metadata={"volatile": True})
    """What teacher and result make of single samples, as the task's ``samples`` tells it: small, for people."""


# -- where, and how ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PowerMode:
    """One of a device's power modes: the clock that its units have at most, and what it draws."""

    name: str
    clock_mhz: float
    watts: float | None = None
    units: int | None = None
    """How many of its units it leaves on, where that is not all."""


@dataclass(frozen=True, slots=True)
class Chip:
    """What of a processor decides how fast it can be at most: all that an estimate is made of."""

    units: int
    """A GPU's multiprocessors, a CPU's cores."""
    ops: Mapping[str, float]
    """Dense operations (a multiplication and its addition are two) that a unit does in a clock, by precision."""
    bandwidth_gbs: float
    """Gigabytes a second between memory and chip."""
    modes: tuple[PowerMode, ...]
    """Its power modes; estimates are of the first."""
    compute_capability: str | None = None
    """NVIDIA's, such as ``8.7``."""
    accelerators: int = 0
    """NVIDIA's deep-learning accelerators (DLA) beside the GPU."""

    def __post_init__(self) -> None:
        numbers = all(isinstance(v, int | float) and v > 0 for v in self.ops.values())
        if set(self.ops) - set(PRECISIONS) or not self.ops or not numbers:
            raise UsageError(
                f"chip.ops = {dict(self.ops)!r}",
                hint=f"give operations a unit and clock, each above 0, of {', '.join(PRECISIONS)}",
            )
        if self.units < 1 or self.bandwidth_gbs <= 0 or not self.modes or any(m.clock_mhz <= 0 for m in self.modes):
            raise UsageError(
                "a chip has units, bandwidth_gbs and at least one of modes, with numbers above 0",
                hint='write units = 16, bandwidth_gbs = 204.8 and [[chip.modes]] with name = "MAXN", clock_mhz = 1300',
            )

    def peak(self, precision: str) -> float | None:
        """Operations a second in the first power mode; None where it does not compute in ``precision``."""
        each, mode = self.ops.get(precision), self.modes[0]
        return None if each is None else each * (mode.units or self.units) * mode.clock_mhz * 1e6


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
    gpu: str | None = None
    """What the driver calls the GPU that it runs on, where it runs on one."""
    chip: Chip | None = None
    """What estimates are made of; without it there are none."""
    runtime_version: str | None = None
    """The version of the device's own runtime that graphs are made for, such as ``10.3`` of TensorRT."""
    releases: Mapping[str, str] = field(default_factory=dict)
    """Which runtime version each release of the device's system brings."""
    int8_share: float = 0.0
    """The least share of multiplications that an INT8 result must do in INT8."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where the values come from, by key."""

    def __post_init__(self) -> None:
        if self.builds not in ("here", "on-device"):
            raise UsageError(f'target {self.name}: builds = "{self.builds}"', hint='write "here" or "on-device"')
        if not 1 <= self.width_multiple <= 64:
            raise UsageError(
                f"target {self.name}: width_multiple = {self.width_multiple}", hint="write a whole number from 1 to 64"
            )
        for precision in (*self.precisions, self.native_float):
            if precision not in PRECISIONS:
                raise UsageError(
                    f"target {self.name}: unknown precision {precision!r}",
                    hint=f"the precisions are {', '.join(PRECISIONS)}",
                )
        if not 0 <= self.int8_share <= 1:
            raise UsageError(f"target {self.name}: int8_share = {self.int8_share}", hint="write a share from 0 to 1")
        for key, version in {"runtime_version": self.runtime_version or "0", **self.releases}.items():
            if not isinstance(version, str) or not all(part.isdecimal() for part in version.split(".")):
                raise UsageError(f"target {self.name}: {key} = {version!r}", hint='write a version such as "10.3"')
        keys = {f.name for f in fields(self)} - {"name", "title", "sources"}
        if strange := [key for key, text in self.sources.items() if key not in keys or not isinstance(text, str)]:
            raise UsageError(
                f"target {self.name}: a source for {strange[0]!r}, which is no key of a target",
                hint='write [sources] with lines such as chip = "the data sheet that says so"',
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
class Stage:
    """A graph on the way from teacher to result, and the passes that it is owed to."""

    passes: tuple[str, ...]
    """Those that ran since the graph before it."""
    structure: str | None
    """The last of them that changed the architecture."""
    weights: str | None
    """The last of them that changed the weights of the network."""
    model: Model
    """The network that it is the graph of."""
    onnx: OnnxModel
    measured: Measurement | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """What the target's runtime loads: ``ready``, or ``pending`` until ``todo`` is done."""

    backend: str
    path: Path
    sha256: str
    status: str
    todo: str | None = None
    files: tuple[Path, ...] = ()
    """What else belongs into the bundle: how it is made on the device, and run there."""
    facts: Mapping[str, Json] = field(default_factory=dict)
    """What was found out while it was made: who judged the graph, which precision each layer has."""


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
    stages: tuple[Stage, ...] = ()
    """The graphs that have been the result's, in the order they were made; the run keeps count, not a pass."""

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
    board: str | None = None
    """Where latency is taken and the bundle tried, as ``ssh://user@host``; None: here."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass hands back: the next artifact, and what happened."""

    artifact: Artifact
    metrics: Mapping[str, Json] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    pinned: Mapping[str, Json] = field(default_factory=dict)
    """Settings with which it would do the same again, where its own leave something to the device's state."""


@dataclass(frozen=True, slots=True)
class PlanContext:
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
    produces: ClassVar[frozenset[str]]
    volatile: ClassVar[bool]
    """True where the device's state changes the outcome: never answered from the cache."""

    @property
    def collective(self) -> bool:
        """Whether all processes of a run work on it together; else the first does, and the others read the result."""
        ...

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        """What stands in the way, each with its mend; empty where the pass can run."""
        ...

    def run(self, artifact: Artifact, context: Context) -> Result: ...


# -- backends ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QdqRules:
    """Where a runtime wants QuantizeLinear/DequantizeLinear pairs, and of what kind.

    The placement pass (`compressor.quant.placement`) reads this table and knows no runtime.
    """

    quantizable_ops: frozenset[str]
    """Ops that run in integers: their float inputs are quantised."""
    quantize_outputs: frozenset[str]
    """Those of them whose outputs are quantised too (after a fused activation)."""
    passthrough_ops: frozenset[str]
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
    passthrough_in_integers: bool = True
    """Whether ``passthrough_ops`` are done on the integers; else they keep their grid, and each reader has its own pair."""
    skip_branch: frozenset[str] = frozenset()
    """Ops that a convolution's kernel does in passing: only the branch that it does not make is quantised."""
    shared_scale_ops: frozenset[str] = frozenset()
    """Ops whose inputs and output share one grid, where an integer op reads the output."""
    min_channels: int = 0
    """Convolutions of fewer channels stay float, unless those are a multiple of 8."""
    quantize_gemv: bool = True
    """Whether products of one row a sample (a classifier's) are done in integers."""
    integer_weights: bool = True
    """Whether weights are stored as integers; else as floats, with a QuantizeLinear of their own."""
    folds_packed_weights: bool = True
    """Whether the runtime unfolds weights that are stored as codes of a few bits."""
    float_dtype: str = "float32"
    """What everything else computes in, and what scales are stored in: ``float32`` or ``float16``."""


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

    def memory(self, path: Path) -> int | None:
        """Bytes of the constants that a loaded file holds, unfolded; None where the runtime does not tell."""
        ...
