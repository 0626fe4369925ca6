"""From a network to its float graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from compressor.core import Artifact, Context, Model, OnnxModel, PlanContext, Result

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["Lower"]

_LOOKED_AT = 32
"""Training samples on which values beyond FP16's range are looked for."""


@dataclass(frozen=True)
class Lower:
    """Make the float graphs of teacher and student: exported from torch, or the user's own ONNX file cleaned.

    ``precision = "native"`` takes the narrowest float that the target computes in natively. Inputs and
    outputs stay as they are in every precision. Operations whose values FP16 cannot hold, on some training samples and
    on random ones, stay in float32 where the target computes in FP16.
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
        from compressor.lowering.half_range import mark_beyond_half
        from compressor.lowering.lower import lower_to_float
        from compressor.lowering.save import save

        warnings: tuple[str, ...] = ()

        def lowered(name: str, model: Model) -> OnnxModel:
            nonlocal warnings
            context.progress(f"lower {name}", 0, 1)
            graph = lower_to_float(model, context.task, context.target.opset)
            if model is artifact.result and context.target.native_float == "fp16":
                marked, count = mark_beyond_half(graph, _samples(model, context)), len(graph.graph)
                if marked:
                    warnings = (f"{marked} of {count} operations stay in float32: FP16 cannot hold their values",)
            return save(graph, context.workdir / f"{name}.onnx", "fp32")

        reference = lowered("teacher", artifact.teacher)
        onnx = reference if artifact.student is None else lowered("student", artifact.student)
        if self._precision(context.target.native_float) == "fp16":
            onnx = fp16_twin(onnx, context.workdir / "model.onnx")
        metrics = {"precision": onnx.precision, "opset": onnx.opset, "bytes": onnx.path.stat().st_size}
        return Result(replace(artifact, reference=reference, onnx=onnx), metrics, warnings)

    def _precision(self, native: str) -> str:
        return native if self.precision == "native" else self.precision


def _samples(model: Model, context: Context) -> Iterator[Feeds]:
    """Yield what single runs of a network take: random values, and some training samples."""
    import numpy as np

    from compressor.feeds import one_run, random_feeds

    signature = model.signature
    yield random_feeds(signature, model.sizes, None, context.seed)
    if context.data is None or context.data.train is None:
        return
    size = signature.samples or 1
    count = min(max(_LOOKED_AT, size), len(context.data.train)) // size * size
    for batch in context.data.train.batches(size, np.arange(count)):
        yield one_run(signature, model.sizes, batch.feeds)
