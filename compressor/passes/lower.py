"""From torch to ONNX."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compressor.core import Artifact, Context, OnnxModel, PlanContext, Result

__all__ = ["Lower"]


@dataclass(frozen=True)
class Lower:
    """Export teacher and student to clean ONNX with a dynamic batch; of what makes images, height and width too.

    ``precision = "native"`` takes the narrowest float that the target computes in natively. Inputs and
    outputs stay float32 in every precision.
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
        from compressor.export import export, guarded, save
        from compressor.frontend import load
        from compressor.quant.half import halve

        def lowered(name: str, model_name: str) -> OnnxModel:
            context.progress(f"export {name}", 0, 1)
            model = artifact.teacher if name == "teacher" else artifact.result
            graph = export(load(model), model.input, context.target.opset, any_size=model.enlarges is not None)
            if model.enlarges is not None:
                graph = guarded(graph)
            return save(graph, context.workdir / model_name, "fp32")

        reference = lowered("teacher", "teacher.onnx")
        onnx = reference if artifact.student is None else lowered("student", "student.onnx")
        if self._precision(context.target.native_float) == "fp16":
            onnx = halve(onnx, context.workdir / "model.onnx")
        metrics = {"precision": onnx.precision, "opset": onnx.opset, "bytes": onnx.path.stat().st_size}
        return Result(replace(artifact, reference=reference, onnx=onnx), metrics)

    def _precision(self, native: str) -> str:
        return native if self.precision == "native" else self.precision
