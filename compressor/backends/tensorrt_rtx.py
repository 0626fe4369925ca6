"""TensorRT for RTX: engines for GeForce GPUs, built on any machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import ClassVar

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

_PACKAGE = "tensorrt-rtx"
_LIKE = "11.4"
"""The TensorRT whose parser it shares (its operators and opsets are compared in ``tests/engines``)."""
_MOST = 8
"""The largest batch that an engine takes; it is tuned for one sample."""
_SIDES = (16, 256, 1024)
"""Least, usual and largest height and width where the graph leaves them open."""


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
        """An engine for the target's compute capability, from a graph that the parser takes without a word."""
        from compressor.backends import _tensorrt_session

        self.version()
        facts = judge_for_tensorrt(onnx.path.read_bytes(), _LIKE)
        capability = target.chip.compute_capability if target.chip else None
        plan, said = _built(onnx.path, f"SM{(capability or '').replace('.', '')}")
        path = workdir / "model.plan"
        path.write_bytes(plan)
        session = workdir / "session.py"
        session.write_bytes(Path(_tensorrt_session.__file__).read_bytes())
        sha256 = hashlib.sha256(plan).hexdigest()
        facts |= {"engine_bytes": len(plan), "compute_capability": capability, "runtime_version": self.version()}
        if said:
            facts["builder_said"] = said
        return Engine(self.name, path, sha256, "ready", files=(session,), facts=facts)

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        """The graph evaluated in floats (``exact``), or an engine on this machine's GPU."""
        if exact:
            return OnnxRuntime().open(path, threads=threads, exact=True)
        self.version()
        return open_engine(path, lambda source: _built(source, "CURRENT")[0])

    def memory(self, path: Path) -> int | None:
        return None


def _built(path: Path, wanted: str) -> tuple[bytes, list[str]]:
    """The serialised engine for a compute capability, such as ``SM89``, and what the builder warned of, once each."""
    import tensorrt_rtx as trt

    known = {str(name) for name in trt.ComputeCapability.__members__}
    if wanted not in known:
        raise UsageError(
            f"TensorRT for RTX does not build for {wanted}",
            hint=f"set chip.compute_capability in the target: {', '.join(sorted(known - {'NONE', 'CURRENT'}))}",
        )
    said: list[tuple[int, str]] = []

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            said.append((int(severity), message))

    listener = Listener()
    builder = trt.Builder(listener)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    trt.OnnxParser(network, listener).parse(path.read_bytes())
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.__members__[wanted], 0)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        least, usual, most = zip(*(_span(axis, size) for axis, size in enumerate(tensor.shape)), strict=True)
        profile.set_shape(tensor.name, least, usual, most)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        errors = [message for severity, message in said if severity <= int(trt.ILogger.ERROR)]
        raise VerificationFailed(
            f"TensorRT for RTX cannot build an engine: {errors[-1] if errors else 'it does not say why'}",
            hint=f"inspect {path}; the float profile may still work",
        )
    warnings = dict.fromkeys(message.strip() for severity, message in said if severity == int(trt.ILogger.WARNING))
    return bytes(plan), list(warnings)


def _span(axis: int, size: int) -> tuple[int, int, int]:
    """Least, usual and largest extent of an input's axis."""
    if size >= 0:
        return size, size, size
    return (1, 1, _MOST) if axis == 0 else _SIDES
