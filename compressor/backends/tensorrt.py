"""TensorRT, on the device: a Jetson, or a machine with the GPU."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from compressor.backends import _tensorrt_build_engine as build_engine
from compressor.backends._named_session import file_signature
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

__all__ = ["Tensorrt"]

_WORKSPACE = 1 << 30
_FP16_SCALES = 19
"""The first opset in which QuantizeLinear and DequantizeLinear may be FP16."""


class Tensorrt:
    """NVIDIA TensorRT 8, 10 and 11 through its Python package.

    A plan runs on one GPU, with one TensorRT and one system. Elsewhere than on the device the graph is made and
    judged, and a script that builds the plan goes with it.
    """

    name: ClassVar[str] = "tensorrt"

    def version(self) -> str:
        try:
            return importlib.metadata.version("tensorrt")
        except importlib.metadata.PackageNotFoundError as error:
            raise Unavailable(
                "TensorRT is not installed", hint="on a Jetson: sudo apt install python3-libnvinfer"
            ) from error

    def rules(self, target: Target) -> QdqRules:
        """Weights as integers from version 10 on; FP16 in the graph where the version can read it there."""
        major = int(_runtime_version(target).split(".")[0])
        half = target.native_float == "fp16" and major >= 10 and target.opset >= _FP16_SCALES
        return tensorrt_rules(integer_weights=major >= 10, half=half)

    def build(self, onnx: OnnxModel, model: Model, target: Target, workdir: Path) -> Engine:
        """Build a plan on the device; elsewhere judge the graph, and add ``build_engine.py``."""
        from compressor.backends import _tensorrt_session

        version = _runtime_version(target)
        facts = judge_for_tensorrt(onnx.path.read_bytes(), version)
        facts["runtime_version"] = version
        if target.chip is not None and target.chip.accelerators:
            facts["accelerators"] = _accelerator_text(onnx.path, version)
        files = []
        for name, module in (("build_engine.py", build_engine), ("session.py", _tensorrt_session)):
            assert module.__file__ is not None
            files.append(workdir / name)
            files[-1].write_bytes(Path(module.__file__).read_bytes())
        if importlib.util.find_spec("tensorrt") is None or target.title not in build_engine.board():
            todo = f"copy the bundle to the {target.title} and there run: python3 build_engine.py"
            return Engine(self.name, onnx.path, onnx.sha256, "pending", todo, tuple(files), facts)
        plan = _plan(onnx.path, model.sizes, model.ranges)
        path = workdir / "model.plan"
        path.write_bytes(plan)
        facts["engine_bytes"] = len(plan)
        return Engine(self.name, path, hashlib.sha256(plan).hexdigest(), "ready", files=tuple(files), facts=facts)

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        """Load a plan, or build one of a graph first, on this machine's GPU; with ``exact`` compute in float here."""
        if exact:
            return OnnxRuntime().open(path, threads=threads, exact=True)
        self.version()
        return open_engine(path, lambda graph: _plan(graph, {}, {}))

    def memory(self, path: Path) -> int | None:
        return None


def _plan(path: Path, sizes: Mapping[str, int], ranges: Mapping[str, tuple[int, int]]) -> bytes:
    """Build the plan of an ONNX file. Raises VerificationFailed where TensorRT cannot."""
    import tensorrt

    inputs = file_signature(path).to_json()["inputs"]
    bounds = {axis: list(each) for axis, each in ranges.items()}
    spans = build_engine.shape_spans(inputs, dict(sizes), bounds)
    try:
        plan, _ = build_engine.build_plan(tensorrt, path.read_bytes(), spans, b"", _WORKSPACE)
    except build_engine.Failed as error:
        raise VerificationFailed(str(error), hint=error.hint) from error
    return plan


def _accelerator_text(path: Path, version: str) -> str:
    """What of the graph the board's deep-learning accelerators could run; the engine itself is built for the GPU."""
    import onnx

    from compressor.legality import accelerator_coverage

    coverage = accelerator_coverage(onnx.load(str(path)), version)
    if not coverage.supported:
        return f"TensorRT {version} drives none"
    first_left = f", not {coverage.left[0]}" if coverage.left else ""
    return f"could take {coverage.taken} of {coverage.nodes} nodes{first_left}"


def _runtime_version(target: Target) -> str:
    """The TensorRT that the target's graphs are for. Raises UsageError where the target has none."""
    if target.runtime_version is None:
        raise UsageError(
            f"target {target.name} has no runtime_version, so its TensorRT is not known",
            hint='add runtime_version = "10.3", or what the device has: dpkg -l libnvinfer-dev',
        )
    return target.runtime_version
