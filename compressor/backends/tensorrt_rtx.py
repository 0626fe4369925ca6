"""TensorRT for RTX: engines for GeForce GPUs, built on any machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from compressor.backends._named_session import file_signature
from compressor.backends._tensorrt_build_engine import Span, shape_spans
from compressor.backends._tensorrt_open import open_engine
from compressor.backends._tensorrt_rules import tensorrt_rules
from compressor.backends.onnxruntime import OnnxRuntime
from compressor.core import (
    Engine,
    Model,
    OnnxModel,
    QdqRules,
    Session,
    Target,
    Unavailable,
    UsageError,
    VerificationFailed,
)
from compressor.legality import judge_for_tensorrt

__all__ = ["TensorrtRtx"]

_LIKE = "11.4"
"""The TensorRT whose parser it shares; ``tests/engines`` compares their operators and opsets."""
_PACKAGE = "tensorrt-rtx"


class TensorrtRtx:
    """TensorRT for RTX. It builds for a compute capability, and wants a GPU only to run."""

    name: ClassVar[str] = "tensorrt-rtx"

    def version(self) -> str:
        try:
            return importlib.metadata.version(_PACKAGE)
        except importlib.metadata.PackageNotFoundError as error:
            raise Unavailable("TensorRT for RTX is not installed", hint=f"pip install {_PACKAGE}") from error

    def rules(self, target: Target) -> QdqRules:
        """Networks are strongly typed: FP16 stands in the graph where the target computes in it."""
        return tensorrt_rules(integer_weights=True, half=target.native_float == "fp16")

    def build(self, onnx: OnnxModel, model: Model, target: Target, workdir: Path) -> Engine:
        """Build an engine for the target's compute capability, of a graph that the parser takes without a warning."""
        from compressor.backends import _tensorrt_session

        self.version()
        facts = judge_for_tensorrt(onnx.path.read_bytes(), _LIKE)
        capability = target.chip.compute_capability if target.chip else None
        spans = _spans(onnx.path, model.sizes, model.ranges)
        plan, warnings = _built(onnx.path, spans, f"SM{(capability or '').replace('.', '')}")
        path = workdir / "model.plan"
        path.write_bytes(plan)
        session = workdir / "session.py"
        session.write_bytes(Path(_tensorrt_session.__file__).read_bytes())
        sha256 = hashlib.sha256(plan).hexdigest()
        facts |= {"engine_bytes": len(plan), "compute_capability": capability, "runtime_version": self.version()}
        if warnings:
            facts["builder_warnings"] = warnings
        return Engine(self.name, path, sha256, "ready", files=(session,), facts=facts)

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        """Load an engine, or build one of a graph first, on this machine's GPU; with ``exact`` compute in float."""
        if exact:
            return OnnxRuntime().open(path, threads=threads, exact=True)
        self.version()
        return open_engine(path, lambda graph: _built(graph, _spans(graph, {}, {}), "CURRENT")[0])

    def memory(self, path: Path) -> int | None:
        return None


def _spans(path: Path, sizes: Mapping[str, int], ranges: Mapping[str, tuple[int, int]]) -> dict[str, list[Span]]:
    """The spans of an ONNX file's inputs; see `shape_spans`."""
    bounds = {axis: list(each) for axis, each in ranges.items()}
    return shape_spans(file_signature(path).to_json()["inputs"], dict(sizes), bounds)


def _built(path: Path, spans: Mapping[str, Sequence[Span]], capability: str) -> tuple[bytes, list[str]]:
    """Build an engine for a compute capability, such as ``SM89``; return it serialised, and the builder's warnings.

    Raises UsageError for a capability that TensorRT for RTX does not build for, VerificationFailed where it cannot.
    """
    import tensorrt_rtx as trt

    known = {str(name) for name in trt.ComputeCapability.__members__}
    if capability not in known:
        raise UsageError(
            f"TensorRT for RTX does not build for {capability}",
            hint=f"set chip.compute_capability in the target: {', '.join(sorted(known - {'NONE', 'CURRENT'}))}",
        )
    logged: list[tuple[int, str]] = []

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            logged.append((int(severity), message))

    listener = Listener()
    builder = trt.Builder(listener)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    trt.OnnxParser(network, listener).parse(path.read_bytes())
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.__members__[capability], 0)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        profile.set_shape(name, *(tuple(span[i] for span in spans[name]) for i in range(3)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        errors = [message for severity, message in logged if severity <= int(trt.ILogger.ERROR)]
        raise VerificationFailed(
            f"TensorRT for RTX cannot build an engine: {errors[-1] if errors else 'it gives no reason'}",
            hint=f"inspect {path}; the float profile may still work",
        )
    warnings = dict.fromkeys(message.strip() for severity, message in logged if severity == int(trt.ILogger.WARNING))
    return bytes(plan), list(warnings)
