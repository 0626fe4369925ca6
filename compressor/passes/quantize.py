"""INT8, after training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compressor.core import Artifact, Context, Prospect, Result, UsageError

__all__ = ["Quantize"]


@dataclass(frozen=True)
class Quantize:
    """Post-training INT8: NNCF gathers ranges, the target's rules place the quantisers.

    ``samples`` training images are drawn by the run's seed; never one that is judged on.
    """

    method: Literal["ptq"] = "ptq"
    samples: int = 300
    range: Literal["minmax", "mean-minmax"] = "minmax"

    kind: ClassVar[str] = "quantize"
    needs: ClassVar[frozenset[str]] = frozenset({"onnx"})
    gives: ClassVar[frozenset[str]] = frozenset({"onnx"})
    volatile: ClassVar[bool] = False

    def check(self, prospect: Prospect) -> tuple[str, ...]:
        problems = []
        if "int8" not in prospect.target.precisions:
            problems.append(f"target {prospect.target.name} does not run int8: use --profile float")
        if not prospect.has_train:
            problems.append("there is no training data to calibrate on: give --data, or use --profile float")
        if self.samples < 1:
            problems.append(f"quantize.samples = {self.samples}: calibrate on at least one sample")
        return tuple(problems)

    def run(self, artifact: Artifact, context: Context) -> Result:
        import numpy as np
        import onnx_ir as ir

        from compressor import catalog
        from compressor.export import save
        from compressor.quant.placement import Placement
        from compressor.quant.ranges import activation_ranges

        assert artifact.onnx is not None
        assert context.data is not None
        assert context.data.train is not None
        if artifact.onnx.precision != "fp32":
            raise UsageError(
                f"quantize starts from a float32 graph, and this one is {artifact.onnx.precision}",
                mend='set lower.precision = "fp32"',
            )
        train = context.data.train
        count = min(self.samples, len(train))
        drawn = np.sort(np.random.default_rng(context.seed).choice(len(train), count, replace=False))
        # A batch no larger than the memory that its intermediate tensors take: ten small images, one large.
        size = max(1, min(10, 10 * 64 * 64 // (artifact.result.input.height * artifact.result.input.width)))
        batches = [images for images, _ in train.batches(size, drawn)]

        rules = catalog.find("backends", context.target.backend)().rules(context.target)
        graph = ir.load(artifact.onnx.path)
        placement = Placement(graph, rules)
        tensors = placement.tensors
        placement.apply(activation_ranges(graph, tensors, batches, self.range, context.progress))
        quantised = save(graph, context.workdir / "model.onnx", "int8", artifact.onnx)
        before, after = artifact.onnx.path.stat().st_size, quantised.path.stat().st_size
        metrics = {
            "calibration": f"{count} samples of {train.name}",
            "quantised_tensors": len(tensors),
            "weight_bits": rules.weight_bits,
            "activations": rules.activation_dtype,
            "bytes_before": before,
            "bytes": after,
        }
        warnings = () if count == self.samples else (f"calibrated on {count} samples: the training half has no more",)
        return Result(replace(artifact, onnx=quantised), metrics, warnings)
