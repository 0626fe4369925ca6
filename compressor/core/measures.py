"""Figures: metrics, latencies, and what a model costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compressor.core.json import Json
from compressor.core.models import Model, OnnxModel

__all__ = ["Latency", "Measurement", "Measurements", "Metric", "Stage"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A task's quality figure, such as the fraction ``top1`` or ``psnr`` in dB."""

    name: str
    value: float
    samples: int
    fingerprint: str
    """The fingerprint of the samples judged on; figures are comparable only where it agrees."""
    source: str
    """For people: which samples these were."""
    also: Mapping[str, float] = field(default_factory=dict)
    """Further figures on the same samples, such as ``ssim``."""
    unit: str = ""
    """``%`` for a fraction that is shown in percent, ``dB``, or nothing."""
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
    """The least and the most that an estimate may be; None of a measurement."""
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
    """Bytes of the constants that the runtime holds once the file is loaded; None where it does not tell."""


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
