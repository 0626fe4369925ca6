"""From a network to its float graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compressor.core import Artifact, Context, Model, OnnxModel, PlanContext, Result

__all__ = ["Lower"]


@dataclass(frozen=True)
class Lower:
    """Make the float graphs of teacher and student: exported from torch, or the user's own ONNX file cleaned.

    ``precision = "native"`` takes the narrowest float that the target computes in natively. Inputs and
    outputs stay as they are in every precision.
    """

    precision: Literal["fp32", "fp16", "native"] = "fp32"

    kind: ClassVar[str] = "lower"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    produces: ClassVar[frozenset[str]] = frozenset({"reference", "onnx"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        precision = self._precision(plan_context.target.native_float)
        if precision in plan_context.target.precisions:
            return ()
        known = ", ".join(plan_context.target.precisions)
        return (f"target {plan_context.target.name} does not run {precision}: set lower.precision to one of {known}",)

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor.lowering.fp16 import fp16_twin
        from compressor.lowering.lower import lower_to_float
        from compressor.lowering.save import save

        def lowered(name: str, model: Model) -> OnnxModel:
            context.progress(f"lower {name}", 0, 1)
            graph = lower_to_float(model, context.task, context.target.opset)
            return save(graph, context.workdir / f"{name}.onnx", "fp32")

        reference = lowered("teacher", artifact.teacher)
        onnx = reference if artifact.student is None else lowered("student", artifact.student)
        if self._precision(context.target.native_float) == "fp16":
            onnx = fp16_twin(onnx, context.workdir / "model.onnx")
        metrics = {"precision": onnx.precision, "opset": onnx.opset, "bytes": onnx.path.stat().st_size}
        return Result(replace(artifact, reference=reference, onnx=onnx), metrics)

    def _precision(self, native: str) -> str:
        return native if self.precision == "native" else self.precision
