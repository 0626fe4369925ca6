"""A device that is not there: onnx's own reference evaluator, slow and always at hand.

It lets every pass run without a runtime, and judges the runtimes.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressor.backends._named_session import file_signature
from compressor.core import Engine, Model, OnnxModel, QdqRules, Session, Target

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["Null"]


class Null:
    """The reference evaluator of the onnx package."""

    name: ClassVar[str] = "null"

    def version(self) -> str:
        return importlib.metadata.version("onnx")

    def rules(self, target: Target) -> QdqRules:
        """The plainest table: symmetric 8-bit inputs of the ops with weights, nothing else."""
        return QdqRules(
            quantizable_ops=frozenset({"Conv", "Gemm", "MatMul"}),
            quantize_outputs=frozenset(),
            passthrough_ops=frozenset(),
            activation_dtype="int8",
            symmetric_activations=True,
            weight_bits=8,
            per_channel=frozenset({"Conv", "Gemm"}),
            integer_bias=frozenset(),
            fold_activations=False,
            keep_float_outputs=True,
        )

    def build(self, onnx: OnnxModel, model: Model, target: Target, workdir: Path) -> Engine:
        return Engine(self.name, onnx.path, onnx.sha256, "ready")

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        return _Evaluator(path)

    def memory(self, path: Path) -> int | None:
        return None


class _Evaluator:
    def __init__(self, path: Path) -> None:
        from onnx.reference import ReferenceEvaluator

        self._model = ReferenceEvaluator(str(path))
        self.signature = file_signature(path)

    def __call__(self, feeds: Feeds) -> Outputs:
        return dict(zip(self._model.output_names, self._model.run(None, dict(feeds)), strict=True))
