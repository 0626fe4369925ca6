"""TensorRT, on the device: a Jetson, or a machine with the GPU."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import ClassVar

from compressor.backends import _tensorrt_recipe as recipe
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
_HALF_SCALES = 19
"""The first opset in which QuantizeLinear and DequantizeLinear may be FP16."""


class Tensorrt:
    """NVIDIA TensorRT 8, 10 and 11 through its Python package.

    A plan belongs to one GPU, one TensorRT and one system. Away from the device the graph is made and judged, and
    the recipe goes with it.
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
        major = _major(target)
        half = target.native_float == "fp16" and major >= 10 and target.opset >= _HALF_SCALES
        return tensorrt_rules(integer_weights=major >= 10, half=half)

    def build(self, onnx: OnnxModel, model: Model, target: Target, workdir: Path) -> Engine:
        """On the device an engine; elsewhere the recipe for it, beside a graph that was judged."""
        from compressor.backends import _tensorrt_session

        facts = judge_for_tensorrt(onnx.path.read_bytes(), _wanted(target))
        facts["runtime_version"] = _wanted(target)
        if target.chip is not None and target.chip.accelerators:
            facts["accelerators"] = _accelerated(onnx.path, _wanted(target))
        files = []
        for name, module in (("build_engine.py", recipe), ("session.py", _tensorrt_session)):
            assert module.__file__ is not None
            files.append(workdir / name)
            files[-1].write_bytes(Path(module.__file__).read_bytes())
        if importlib.util.find_spec("tensorrt") is None or target.title not in recipe.board():
            todo = f"copy the bundle to the {target.title} and there run: python3 build_engine.py"
            return Engine(self.name, onnx.path, onnx.sha256, "pending", todo, tuple(files), facts)
        plan = self._plan(onnx.path)
        path = workdir / "model.plan"
        path.write_bytes(plan)
        facts["engine_bytes"] = len(plan)
        return Engine(self.name, path, hashlib.sha256(plan).hexdigest(), "ready", files=tuple(files), facts=facts)

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        """The graph evaluated in floats (``exact``), or an engine on this machine's GPU; a graph is built first."""
        if exact:
            return OnnxRuntime().open(path, threads=threads, exact=True)
        self.version()
        return open_engine(path, self._plan)

    def memory(self, path: Path) -> int | None:
        return None

    def _plan(self, path: Path) -> bytes:
        import tensorrt

        try:
            plan, _ = recipe.build_plan(tensorrt, path.read_bytes(), b"", _WORKSPACE)
        except recipe.Failed as error:
            raise VerificationFailed(str(error), hint=error.hint) from error
        return plan


def _accelerated(path: Path, version: str) -> str:
    """What the board's deep-learning accelerators could take; the recipe builds for the GPU."""
    import onnx

    from compressor.legality import accelerator_coverage

    told = accelerator_coverage(onnx.load(str(path)), version)
    if not told.supported:
        return f"TensorRT {version} drives none"
    return f"could take {told.taken} of {told.nodes} nodes" + (f", not {told.left[0]}" if told.left else "")


def _wanted(target: Target) -> str:
    """The TensorRT that the target's graphs are for."""
    if target.runtime_version is None:
        raise UsageError(
            f"target {target.name} does not say which TensorRT it has",
            hint='add runtime_version = "10.3", or what the device has: dpkg -l libnvinfer-dev',
        )
    return target.runtime_version


def _major(target: Target) -> int:
    return int(_wanted(target).split(".")[0])
