"""Integers: INT8, or fewer bits of weights on INT8 kernels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from compressor.budgets import Budget
from compressor.core import Artifact, Backend, Context, Json, PlanContext, Result, UsageError
from compressor.losses import objective
from compressor.train.distill_config import DistillConfig

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

    from compressor.core import Model, OnnxModel, QdqRules
    from compressor.quant.calibration import Calibration
    from compressor.quant.weight_spec import BitAllocation, WeightQuantSpec

__all__ = ["Quantize"]

_MIN_AGREEMENT = 0.995
"""The share of labels that the runtime's integers and the trained network should agree on."""
_MIN_PARITY_DB = 45.0
"""The PSNR that the runtime's integers should have against the trained network's images: it costs some 0.1 dB."""


@dataclass(frozen=True)
class Quantize:
    """INT8, with quantisers where the target's runtime wants them, and fewer bits of weights where that is set.

    ``method = "ptq"``: NNCF gathers ranges over ``samples`` training images (drawn by the run's seed; evaluation
    samples are never among them), and weights are rounded. Networks whose output is an image keep some layers in
    float (`compressor.quant.mixed_precision`). ``"qat"``: quantisation-aware distillation; layers of Brevitas are
    trained on the teacher's outputs as ``distill`` says, by default for five minutes at a tenth of the distill pass's
    learning rate. ``"codebook"``: differentiable quantization; weights take points that are learned the same way.

    Integers that lose more than ``--max-drop`` (by default a point, 0.1 dB, or 1 % of the metric), or are slower than
    float, are repaired for up to ``minutes`` by operations that stay in float; where that does not do, the network
    stays in float (`compressor.quant.precision_search`). ``prefer = "bytes"`` leaves speed out of it. ``leave_float``
    names the nodes that stay, ``*`` all, and nothing is searched; ``correction`` is then the name of one of
    `compressor.quant.corrections`.

    ``data = "synthetic"`` needs no samples: it calibrates on images that are made to have the statistics that the
    network's own normalisations have seen in training (`compressor.quant.synthetic`), and judges integers by how far
    the outputs are from float's.

    ``bits`` are those of the weights, ``edge_bits`` those of the first layer's and the last one's. With a ``budget``
    of bytes (by default the command line's) each weight gets the bits that the outputs need most and the file has
    room for; with a ``soft_budget`` the limit is dropped where two bits for each are too many. With ``redistributed``
    the numbers of learned points follow the weights' gradients instead (Polino et al. 2018, section 4.2). Weights of
    fewer than eight bits are stored as indices, and run as INT8 all the same.

    ``activations = "float"`` quantises weights alone, as Polino et al. do: the runtime unpacks them at load and
    computes in float, so only the file gets smaller. Only then may each ``bucket_size`` weights (256 in the paper)
    share a scale; 0 is one for each output channel. ``rounding = "stochastic"`` is for uniform weights in training;
    ``"learned"`` is for weights that are not trained: up or down by what the layer's output needs
    (`compressor.quant.learned_rounding`), in up to ``minutes``.
    """

    method: Literal["ptq", "qat", "codebook"] = "ptq"
    bits: int = 8
    edge_bits: int = 8
    budget: tuple[str, ...] = ()
    soft_budget: bool = False
    redistributed: bool = False
    activations: Literal["int8", "float"] = "int8"
    bucket_size: int = 0
    rounding: Literal["nearest", "stochastic", "learned"] = "nearest"
    samples: int = 300
    data: Literal["given", "synthetic"] = "given"
    range: Literal["minmax", "mean-minmax"] = "minmax"
    distill: DistillConfig | None = None
    minutes: float = 3.0
    prefer: Literal["speed", "bytes"] = "speed"
    leave_float: tuple[str, ...] | None = None
    correction: str | None = None

    kind: ClassVar[str] = "quantize"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "onnx"})
    produces: ClassVar[frozenset[str]] = frozenset({"student", "onnx"})
    volatile: ClassVar[bool] = False

    @property
    def collective(self) -> bool:
        return self.method != "ptq"

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        for text in self.budget:
            Budget.parse(text)
        trained = () if self.method == "ptq" else self._training_problems(plan_context)
        return (*self._problems(plan_context), *trained)

    def _problems(self, plan_context: PlanContext) -> Iterator[str]:
        if self.activations == "int8" and "int8" not in plan_context.target.precisions:
            yield f"target {plan_context.target.name} does not run int8: use --profile float"
        if self.bucket_size < 0 or (self.bucket_size and self.activations == "int8"):
            yield (
                f"quantize.bucket_size = {self.bucket_size}: integer kernels have a scale for each output channel: "
                'leave it 0, or set quantize.activations = "float"'
            )
        if self.rounding == "stochastic" and self.method != "qat":
            yield 'quantize.rounding is for uniform weights in training: set quantize.method = "qat"'
        if self.rounding == "learned" and (self.method != "ptq" or self.activations == "float"):
            yield 'quantize.rounding = "learned" is for quantize.method = "ptq" with integer activations'
        if self.redistributed and self.method != "codebook":
            yield 'quantize.redistributed is for learned points: set quantize.method = "codebook"'
        if not plan_context.has_train and (self.data == "given" or self.method != "ptq"):
            yield (
                "there is no training data to calibrate on: give --data, use --profile float, or calibrate on samples "
                "that are made up: --set quantize.data=synthetic"
            )
        if self.minutes <= 0:
            yield f"quantize.minutes = {self.minutes:g}: give more than 0"
        if self.samples < 1:
            yield f"quantize.samples = {self.samples}: calibrate on at least one sample"
        for name in ("bits", "edge_bits"):
            if not 2 <= getattr(self, name) <= 8:
                yield f"quantize.{name} = {getattr(self, name)}: give 2 to 8"
        if self.method == "ptq" and self.distill is not None:
            yield 'quantize.distill is for training: set quantize.method = "qat" or "codebook"'

    def _training_problems(self, plan_context: PlanContext) -> Iterator[str]:
        if self.samples < 2:
            yield f"quantize.samples = {self.samples}: the first ranges need two samples or more"
        yield from self._distill.problems("quantize.distill", plan_context)
        losses = objective(self._distill.with_method().losses)
        if losses.needs & {"features", "student-features"}:
            yield "quantize.distill.losses reads feature maps: take losses on the outputs alone"

    @property
    def _distill(self) -> DistillConfig:
        return self.distill or DistillConfig(minutes=5.0, lr=0.01)

    # -- running ----------------------------------------------------------------------------------

    def run(self, artifact: Artifact, context: Context) -> Result:
        assert artifact.onnx is not None
        if artifact.onnx.precision != "fp32":
            raise UsageError(
                f"quantize starts from a float32 graph, and this one is {artifact.onnx.precision}",
                hint='set lower.precision = "fp32"',
            )
        if self.method != "ptq":
            return self._trained(artifact, context)
        if self.activations == "float":
            return self._weights_only(artifact, context)
        if context.task.mixed_precision:
            return self._mixed_precision(artifact, context)
        return self._ptq(artifact, context)

    def _ptq(self, artifact: Artifact, context: Context) -> Result:
        """Gather ranges, place the quantisers, save."""
        import onnx_ir as ir

        from compressor.lowering.lower import finish_quantized
        from compressor.lowering.placement import Placement
        from compressor.lowering.save import save
        from compressor.quant.ranges import activation_ranges, widened

        assert artifact.onnx is not None
        calibration = self._calibration(artifact.result, context)
        rules = _backend(context).rules(context.target)
        bits = self._weight_bits(artifact, context, rules)
        source, graph = artifact.onnx, ir.load(artifact.onnx.path)
        if self.rounding == "learned":
            self._learn(graph, bits, context, calibration, rules)
            source = save(graph, context.workdir / "rounded.onnx", source.precision, source)
        placement = Placement(graph, rules)
        tensors = placement.tensors
        seen = activation_ranges(graph, tensors, calibration.batches, self.range, context.progress)
        ranges = widened(graph, seen, calibration.samples)
        if not bits:
            return self._searched(artifact, context, calibration, ranges, source)
        placement.apply(ranges, bits)
        path = context.workdir / "model.onnx"
        made, packed = finish_quantized(graph, rules, path, artifact.onnx, packable=bool(bits))
        metrics = {
            "calibration": calibration.text,
            "quantised_tensors": len(tensors),
            "weight_bits": rules.weight_bits,
            **({"bits": dict(bits), "packed": packed} if bits else {}),
            "activations": rules.activation_dtype,
            **_bytes(artifact.onnx, made),
        }
        return Result(replace(artifact, onnx=made), metrics, calibration.warnings)

    def _searched(
        self,
        artifact: Artifact,
        context: Context,
        calibration: Calibration,
        ranges: Mapping[str, tuple[float, float]],
        rounded: OnnxModel,
    ) -> Result:
        """All in integers, or with what accuracy and time leave in float."""
        from compressor.bench.speedups import quick_speedups
        from compressor.feeds import random_feeds
        from compressor.machine import judgement
        from compressor.quant.post_training import PostTraining
        from compressor.tasks import agreement_task

        assert artifact.onnx is not None
        backend = _backend(context)
        rules, judge = backend.rules(context.target), judgement(context.target, backend)
        model, target, seed = artifact.result, context.target, context.seed
        feeds = random_feeds(model.signature, model.sizes, None, seed)
        speedups = partial(
            quick_speedups, feeds=feeds, target=target, judge=judge, seed=seed, progress=context.progress
        )
        search = PostTraining(
            source=artifact.onnx,
            rounded=rounded,
            model=model,
            task=agreement_task() if self.data == "synthetic" else context.task,
            rules=rules,
            judge=judge,
            ranges=ranges,
            batches=calibration.batches,
            train=calibration.split,
            evaluate=None if context.data is None or self.data == "synthetic" else context.data.evaluate,
            allowed=None if self.data == "synthetic" else context.max_drop,
            speedups=None if self.prefer == "bytes" or context.board else speedups,
            minutes=self.minutes,
            seed=context.seed,
            workdir=context.workdir,
            progress=context.progress,
        )
        made = search.run() if self.leave_float is None else search.with_floats(self.leave_float, self.correction)
        choice = made.choice
        left = ("*",) if choice.floats is None else tuple(sorted(choice.floats))
        metrics = {
            "calibration": calibration.text,
            "quantised_tensors": made.tensors,
            "weight_bits": rules.weight_bits,
            "activations": rules.activation_dtype,
            **({"trials": [dict(each) for each in choice.trials]} if len(choice.trials) > 1 else {}),
            **({"in_float": list(left)} if left else {}),
            **({"correction": made.correction} if made.correction else {}),
            **_bytes(artifact.onnx, made.onnx),
        }
        warnings = (*calibration.warnings, *(told for told in (made.gain, choice.reason) if told))
        return Result(
            replace(artifact, onnx=made.onnx), metrics, warnings, {"leave_float": left, "correction": made.correction}
        )

    def _mixed_precision(self, artifact: Artifact, context: Context) -> Result:
        """As `_ptq`, with ranges of least error, and float where the parity of the output needs it."""
        from compressor.machine import judgement
        from compressor.quant.mixed_precision import MixedPrecision

        assert artifact.onnx is not None
        calibration = self._calibration(artifact.result, context)
        backend = _backend(context)
        rules, judge = backend.rules(context.target), judgement(context.target, backend)
        made = MixedPrecision(
            model=artifact.result,
            task=context.task,
            rules=rules,
            opset=context.target.opset,
            open_session=lambda path: judge.open(path, threads=1),
            batches=calibration.batches,
            bits=lambda network: self._weight_bits(artifact, context, rules, network),
            learn=partial(self._learn, context=context, calibration=calibration, rules=rules),
            workdir=context.workdir,
            progress=context.progress,
        ).run()
        metrics = {
            "calibration": calibration.text,
            "quantised_tensors": made.tensors,
            "weight_bits": rules.weight_bits,
            "activations": rules.activation_dtype,
            **made.metrics,
            **_bytes(artifact.onnx, made.onnx),
        }
        return Result(replace(artifact, onnx=made.onnx), metrics, calibration.warnings)

    def _weights_only(self, artifact: Artifact, context: Context) -> Result:
        """Store the weights as indices into tables; the runtime unpacks them and computes in float."""
        import onnx_ir as ir

        from compressor.lowering.save import save
        from compressor.quant.weight_only import index_weight, store_indexed

        assert artifact.onnx is not None
        spec, network = self._spec(artifact), _network(artifact.result)
        rules = _backend(context).rules(context.target)
        allocation = self._allocation(artifact, context, rules, network)
        graph, weights = ir.load(artifact.onnx.path), network.state_dict()
        size = spec.format.bucket_size
        indexed = {name: index_weight(weights[name], bits, size) for name, bits in allocation.bits.items()}
        packed = store_indexed(graph, indexed, {name: weights[name].numpy() for name in indexed})
        made = save(graph, context.workdir / "model.onnx", spec.format.precision, artifact.onnx)
        metrics = {
            **spec.describe(rules.weight_bits),
            "bits": dict(allocation.bits),
            "packed": packed,
            **_bytes(artifact.onnx, made),
        }
        return Result(replace(artifact, onnx=made), metrics)

    def _trained(self, artifact: Artifact, context: Context) -> Result:
        """Train with the quantisers in place."""
        from compressor.train.qat import train_quantized

        assert artifact.onnx is not None
        spec = self._spec(artifact)
        made = train_quantized(self._distill, self.samples, spec, artifact.teacher, artifact.result, context)
        pinned = {"distill": {**dataclasses.asdict(self._distill), **made.pinned}}
        warnings: tuple[str, ...] = ()
        if (db := made.metrics.get("fake_db", math.inf)) < _MIN_PARITY_DB:
            warnings = (f"the runtime's images differ from the trained network's: {db:.1f} dB",)
        if (agreement := made.metrics.get("fake_agreement", 1.0)) < _MIN_AGREEMENT:
            warnings = (f"the runtime and the trained network agree on only {agreement:.2%} of labels",)
        metrics = made.metrics | _bytes(artifact.onnx, made.onnx)
        return Result(replace(artifact, student=made.model, onnx=made.onnx), metrics, warnings, pinned)

    # -- what the routes share --------------------------------------------------------------------

    def _calibration(self, model: Model, context: Context) -> Calibration:
        """Draw the training samples that ranges are gathered over, or make some."""
        from compressor.quant.calibration import draw_calibration

        train = None
        if self.data == "given":
            assert context.data is not None
            train = context.data.train
        what = "crops" if context.task.mixed_precision else "samples"
        return draw_calibration(train, model, self.samples, context.seed, what, context.progress)

    def _learn(
        self, graph: ir.Model, bits: Mapping[str, int], context: Context, calibration: Calibration, rules: QdqRules
    ) -> None:
        """Put weights on their grids, where their rounding is learned."""
        from compressor.quant.learned_rounding import LearnedRounding

        if self.rounding == "learned":
            LearnedRounding(graph, rules, bits, calibration.batches, self.minutes, context.progress).run()

    def _spec(self, artifact: Artifact) -> WeightQuantSpec:
        from compressor.quant.weight_spec import WeightFormat, WeightQuantSpec

        assert artifact.reference is not None
        budgets = [b for b in map(Budget.parse, self.budget) if b.name == "bytes"]
        teacher_bytes = artifact.reference.path.stat().st_size
        limits = [b.limit * (teacher_bytes if b.relative else 1) for b in budgets]
        return WeightQuantSpec(
            bits=self.bits,
            edge_bits=self.edge_bits,
            learned=self.method == "codebook",
            byte_limit=int(min(limits)) if limits and self.method != "ptq" else None,
            soft_budget=self.soft_budget,
            redistributed=self.redistributed,
            format=WeightFormat(self.activations == "int8", self.bucket_size or None, self.rounding == "stochastic"),
        )

    def _allocation(self, artifact: Artifact, context: Context, rules: QdqRules, network: nn.Module) -> BitAllocation:
        import torch

        from compressor.quant.allocate import allocate

        model = artifact.result
        spec, opset = self._spec(artifact), context.target.opset
        return allocate(spec, network, rules, model.signature, model.sizes, opset, torch.empty(0))

    def _weight_bits(
        self, artifact: Artifact, context: Context, rules: QdqRules, network: nn.Module | None = None
    ) -> Mapping[str, int]:
        """The bits of the weights that have fewer than the rules', by name; ``network`` where it is already loaded."""
        if min(self.bits, self.edge_bits) >= rules.weight_bits:
            return {}
        return self._allocation(artifact, context, rules, network or _network(artifact.result)).bits


def _backend(context: Context) -> Backend:
    from compressor import catalog

    backend: Backend = catalog.find("backends", context.target.backend)()
    return backend


def _network(model: Model) -> nn.Module:
    """The network as it is exported. Raises UsageError of an ONNX graph, which has no torch code."""
    from compressor.frontend import load_network
    from compressor.models.common.deployed import deployed

    return deployed(load_network(model))


def _bytes(before: OnnxModel, after: OnnxModel) -> dict[str, Json]:
    return {"bytes_before": before.path.stat().st_size, "bytes": after.path.stat().st_size}
