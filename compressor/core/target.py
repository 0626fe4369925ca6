"""A target: where a model runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from compressor.core.errors import UsageError

__all__ = ["PRECISIONS", "Chip", "PowerMode", "Target"]

PRECISIONS = ("fp32", "fp16", "int8")
"""Every precision that a target may name, widest first."""


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
        version = self.runtime_version or "0"
        if not isinstance(version, str) or not all(part.isdecimal() for part in version.split(".")):
            raise UsageError(
                f"target {self.name}: runtime_version = {version!r}", hint='write a version such as "10.3"'
            )
        keys = {f.name for f in fields(self)} - {"name", "title", "sources"}
        if strange := [key for key, text in self.sources.items() if key not in keys or not isinstance(text, str)]:
            raise UsageError(
                f"target {self.name}: a source for {strange[0]!r}, which is no key of a target",
                hint='write [sources] with lines such as chip = "the data sheet that says so"',
            )
