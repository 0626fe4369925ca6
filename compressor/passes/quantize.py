"""Integers: INT8, or fewer bits of weights on INT8 kernels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from compressor.budgets import Budget
from compressor.core import Artifact, Backend, Context, PlanContext, Result, UsageError
from compressor.losses import objective
from compressor.train.distill_config import DistillConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from compressor.core import Model, OnnxModel, Split
    from compressor.quant.levels import WeightQuantSpec

    from compressor.core.signature import Feeds

__all__ = ["Quantize"]

_ALIKE = 0.995
"""Of labels, what the runtime's integers and the network that was trained should agree on."""


_CLOSE = 45.0
"""Decibels of images, between the runtime's integers and the network that was trained: it costs some 0.1 dB."""


@dataclass(frozen=True)
class Quantize:
    """INT8, its quantisers placed by the target's rules, and weights of fewer levels where they are asked for.

    ``ptq``: NNCF gathers ranges, weights are rounded; of a network that makes images, `compressor.quant.mixed_precision`
    finds ranges of least error and leaves in float what parity gains by. ``qat``: quantisation-aware distillation, layers
    of Brevitas trained on the teacher's outputs as ``distill`` says, by default for five minutes at a tenth of distill's
    learning rate. ``codebook``: differentiable quantization, the points that stand for the weights are trained so.
    ``samples`` training images that (first) ranges are taken from are drawn by the run's seed; never one that
    is judged on.

    ``bits`` are of the weights, ``edge_bits`` of the first layer's and the last's. With a ``budget`` of bytes
    (the command line's, where the profile has one at all) each weight gets as many as the file has room for,
    where they are missed most; a budget that is ``yielding`` is forgotten where two bits each are too many.
    Without one, learned points are ``redistributed`` by the weights' gradients if that is set (section 4.2).
    Fewer than eight bits are stored as codes, and run as INT8 all the same.

    ``activations = "float"`` quantises weights alone, as Polino et al. do: the runtime unfolds the codes at
    load and computes in float, so files and nothing else get smaller. Only then may a ``bucket`` of so many
    weights (256 in the paper) share a scale, where 0 is an output channel each. ``rounding =
    "stochastic"`` is for the training of uniform grids.
    """

    method: Literal["ptq", "qat", "codebook"] = "ptq"
    bits: int = 8
    edge_bits: int = 8
    budget: tuple[str, ...] = ()
    soft_budget: bool = False
    redistributed: bool = False
    activations: Literal["int8", "float"] = "int8"
    bucket: int = 0
    rounding: Literal["nearest", "stochastic"] = "nearest"
    samples: int = 300
    range: Literal["minmax", "mean-minmax"] = "minmax"
    distill: DistillConfig | None = None

    kind: ClassVar[str] = "quantize"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "onnx"})
    produces: ClassVar[frozenset[str]] = frozenset({"student", "onnx"})
    volatile: ClassVar[bool] = False

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        problems = []
        if self.activations == "int8" and "int8" not in plan_context.target.precisions:
            problems.append(f"target {plan_context.target.name} does not run int8: use --profile float")
        if self.bucket < 0 or (self.bucket and self.activations == "int8"):
            problems.append(
                f"quantize.bucket = {self.bucket}: integer kernels have a scale for each output channel: "
                'leave it 0, or set quantize.activations = "float"'
            )
        if self.rounding == "stochastic" and self.method != "qat":
            problems.append('quantize.rounding is for the training of grids: set quantize.method = "qat"')
        if self.redistributed and self.method != "codebook":
            problems.append('quantize.redistributed is of learned points: set quantize.method = "codebook"')
        if not plan_context.has_train:
            problems.append("there is no training data to calibrate on: give --data, or use --profile float")
        if self.samples < 1:
            problems.append(f"quantize.samples = {self.samples}: calibrate on at least one sample")
        for name in ("bits", "edge_bits"):
            if not 2 <= getattr(self, name) <= 8:
                problems.append(f"quantize.{name} = {getattr(self, name)}: give 2 to 8")
        for text in self.budget:
            Budget.parse(text)
        if self.method != "ptq" and self.samples < 2:
            problems.append(f"quantize.samples = {self.samples}: take first ranges from two samples or more")
        if self.method == "ptq" and self.distill is not None:
            problems.append('quantize.distill is for training: set quantize.method = "qat" or "codebook"')
        if self.method != "ptq":
            problems += self._distill.problems("quantize.distill", plan_context)
            if any("features" in loss.needs for loss, _ in objective(self._distill.losses).terms):
                problems.append("quantize.distill.losses reads feature maps: take losses on the outputs alone")
        return tuple(problems)

    @property
    def collective(self) -> bool:
        return self.method != "ptq"

    def _asked(self, reference: OnnxModel) -> WeightQuantSpec:
        from compressor.quant.levels import WeightQuantSpec, Form

        budgets = [b for b in map(Budget.parse, self.budget) if b.name == "bytes"]
        limits = [b.limit * (reference.path.stat().st_size if b.relative else 1) for b in budgets]
        within = int(min(limits)) if limits and self.method != "ptq" else None
        form = Form(self.activations == "int8", self.bucket or None, self.rounding == "stochastic")
        return WeightQuantSpec(
            self.bits, self.edge_bits, self.method == "codebook", within, self.soft_budget, self.redistributed, form
        )

    @property
    def _distill(self) -> DistillConfig:
        return self.distill or DistillConfig(minutes=5.0, lr=0.01)

    def run(self, artifact: Artifact, context: Context) -> Result:
        import numpy as np
        import onnx_ir as ir
        import torch

        from compressor import catalog
        from compressor.lowering.save import save
        from compressor.frontend import load_network
        from compressor.quant.choosing import choose
        from compressor.lowering.fp16 import convert_to_fp16
        from compressor.lowering.packing import pack
        from compressor.lowering.placement import Placement
        from compressor.quant.ranges import activation_ranges

        assert artifact.onnx is not None
        assert artifact.reference is not None
        assert context.data is not None
        assert context.data.train is not None
        if artifact.onnx.precision != "fp32":
            raise UsageError(
                f"quantize starts from a float32 graph, and this one is {artifact.onnx.precision}",
                hint='set lower.precision = "fp32"',
            )
        if self.method != "ptq":
            return self._trained(artifact, context)
        if self.activations == "float":
            return self._coded(artifact, context)
        train = context.data.train
        count = min(self.samples, len(train))
        drawn = np.sort(np.random.default_rng(context.seed).choice(len(train), count, replace=False))
        batches = _batches(train, drawn, artifact.result)

        backend = catalog.find("backends", context.target.backend)()
        rules = backend.rules(context.target)
        if context.task.mixed_precision:
            return self._restored(artifact, context, backend, batches, f"{count} crops of {train.name}")
        graph = ir.load(artifact.onnx.path)
        placement = Placement(graph, rules)
        tensors = placement.tensors
        bits: Mapping[str, int] = {}
        if min(self.bits, self.edge_bits) < rules.weight_bits:
            result, network = artifact.result, load_network(artifact.result)
            asked = self._asked(artifact.reference)
            bits = choose(asked, network, rules, result.input, context.target.opset, torch.empty(0)).bits
        placement.apply(activation_ranges(graph, tensors, batches, self.range, context.progress), bits)
        packed = pack(graph) if rules.folds_packed_weights and bits else {}
        if rules.float_dtype == "float16":
            convert_to_fp16(graph)
        quantised = save(graph, context.workdir / "model.onnx", "int8", artifact.onnx)
        before, after = artifact.onnx.path.stat().st_size, quantised.path.stat().st_size
        metrics = {
            "calibration": f"{count} samples of {train.name}",
            "quantised_tensors": len(tensors),
            "weight_bits": rules.weight_bits,
            **({"bits": dict(bits), "packed": packed} if bits else {}),
            "activations": rules.activation_dtype,
            "bytes_before": before,
            "bytes": after,
        }
        warnings = () if count == self.samples else (f"calibrated on {count} samples: the training half has no more",)
        return Result(replace(artifact, onnx=quantised), metrics, warnings)

    def _restored(
        self, artifact: Artifact, context: Context, backend: Backend, batches: Sequence[Feeds], calibration: str
    ) -> Result:
        import torch

        from compressor.bench.machine import can_run, machine
        from compressor.frontend import load_network
        from compressor.quant.choosing import choose
        from compressor.quant.mixed_precision import restored

        assert artifact.onnx is not None
        assert artifact.reference is not None
        rules, result, opset = backend.rules(context.target), artifact.result, context.target.opset
        asked = self._asked(artifact.reference)

        def bits(network: torch.nn.Module) -> Mapping[str, int]:
            if min(self.bits, self.edge_bits) >= rules.weight_bits:
                return {}
            return choose(asked, network, rules, result.input, opset, torch.empty(0)).bits

        made = restored(
            result, context.task, rules, backend, opset, batches, bits, context.workdir, context.progress,
            exact=not can_run(context.target, machine()),
        )  # fmt: skip
        metrics = {
            "calibration": calibration,
            "quantised_tensors": made.tensors,
            "weight_bits": rules.weight_bits,
            "activations": rules.activation_dtype,
            **made.metrics,
            "bytes_before": artifact.onnx.path.stat().st_size,
            "bytes": made.onnx.path.stat().st_size,
        }
        return Result(replace(artifact, onnx=made.onnx), metrics)

    def _coded(self, artifact: Artifact, context: Context) -> Result:
        import onnx_ir as ir
        import torch

        from compressor import catalog
        from compressor.lowering.save import save
        from compressor.frontend import load_network
        from compressor.quant.choosing import choose
        from compressor.quant.coded import code, coded

        assert artifact.onnx is not None
        assert artifact.reference is not None
        asked, network = self._asked(artifact.reference), load_network(artifact.result)
        rules = catalog.find("backends", context.target.backend)().rules(context.target)
        levels = choose(asked, network, rules, artifact.result.input, context.target.opset, torch.empty(0))
        graph, weights = ir.load(artifact.onnx.path), network.state_dict()
        codes = {name: coded(weights[name], bits, asked.form.bucket) for name, bits in levels.bits.items()}
        packed = code(graph, codes, {name: weights[name].numpy() for name in codes})
        made = save(graph, context.workdir / "model.onnx", asked.form.precision, artifact.onnx)
        sizes = {"bytes_before": artifact.onnx.path.stat().st_size, "bytes": made.path.stat().st_size}
        metrics = {**asked.told(rules.weight_bits), "bits": dict(levels.bits), "packed": packed, **sizes}
        return Result(replace(artifact, onnx=made), metrics)

    def _trained(self, artifact: Artifact, context: Context) -> Result:
        from compressor.train.qat import train_quantized

        assert artifact.onnx is not None
        assert artifact.reference is not None
        asked = self._asked(artifact.reference)
        made = train_quantized(self._distill, self.samples, asked, artifact.teacher, artifact.result, context)
        sizes = {"bytes_before": artifact.onnx.path.stat().st_size, "bytes": made.onnx.path.stat().st_size}
        pinned = {"distill": {**dataclasses.asdict(self._distill), **made.pinned}}
        warnings: tuple[str, ...] = ()
        if made.metrics.get("fake_db", _CLOSE) < _CLOSE:
            warnings = (f"runtime and training differ: their images by {made.metrics['fake_db']:.1f} dB",)
        if made.metrics.get("fake_agreement", 1.0) < _ALIKE:
            warnings = (f"runtime and training agree on only {made.metrics['fake_agreement']:.2%} of labels",)
        return Result(replace(artifact, student=made.model, onnx=made.onnx), made.metrics | sizes, warnings, pinned)


def _batches(train: Split, drawn: NDArray[np.int64], network: Model) -> list[Feeds]:
    """Calibration samples in batches no larger than the memory that their intermediate tensors take.

    Ten small images, or one large. A network with a fixed batch gets whole ones of that; a part of one is left out.
    """
    fixed = network.signature.samples
    values = max(1, *(math.prod(shape[1:]) for shape in network.feed_shapes.values()))
    size = fixed or max(1, min(10, 10 * 3 * 64 * 64 // values))
    batches = [batch.feeds for batch in train.batches(size, drawn)]
    whole = [feeds for feeds in batches if fixed is None or len(next(iter(feeds.values()))) == fixed]
    if not whole:
        raise UsageError(
            f"the network takes {fixed} samples at a time, and there are {len(drawn)} to calibrate on",
            hint=f"give {fixed} samples or more",
        )
    return whole
