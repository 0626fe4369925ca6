"""A device that is not there: onnx's own reference evaluator, slow and always at hand.

It lets every pass run without a runtime, and judges the runtimes.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressor.core import Engine, OnnxModel, QdqRules, Session, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

    def build(self, onnx: OnnxModel, target: Target, workdir: Path) -> Engine:
        return Engine(self.name, onnx.path, onnx.sha256, "ready")

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        return _Evaluator(path)

    def memory(self, path: Path) -> int | None:
        return None


class _Evaluator:
    def __init__(self, path: Path) -> None:
        from onnx.reference import ReferenceEvaluator

        self._model = ReferenceEvaluator(str(path))

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: list[NDArray[np.float32]] = self._model.run(None, {self._model.input_names[0]: batch})
        return outputs[0]
