"""Quantisation-aware distillation for the target's integers, and the graph that results."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.core import Context, Json, Model, OnnxModel, QdqRules, Session
from compressor.frontend import load_network, save_weights
from compressor.losses import Objective, Outputs, objective
from compressor.lowering.clip import clip_output
from compressor.lowering.lower import finish_quantized
from compressor.lowering.save import save
from compressor.machine import judgement
from compressor.models.common.deployed import deployed
from compressor.quant.allocate import allocate
from compressor.quant.fake_quant import FakeQuantised
from compressor.quant.float_layers import attention_nodes
from compressor.quant.positive_scales import make_scales_positive
from compressor.quant.psnr import psnr
from compressor.quant.weight_spec import BitAllocation, WeightQuantSpec
from compressor.train import workers
from compressor.train.distill_config import DistillConfig
from compressor.train.distillation_data import DistillationData
from compressor.train.fit_with_checkpoints import fit_with_checkpoints
from compressor.train.patches import Patches
from compressor.train.samples import Samples
from compressor.train.student import training_metrics
from compressor.train.teacher import prepare_teacher

__all__ = ["QatResult", "batch_loss", "train_quantized"]

_BATCH = 64
_NORM_SAMPLES = 5_000
"""Images that the batch normalisations' statistics are estimated from after the training."""
_COMPARED_SAMPLES = 10_000
_FOLDED_LR = 0.1
"""The learning rate's factor where the deployed form has folded all batch normalisations, without which it diverges."""


@dataclasses.dataclass(frozen=True)
class QatResult:
    """A network trained with its quantisers: its float weights, and its graph for the target."""

    model: Model
    onnx: OnnxModel
    metrics: dict[str, Json]
    pinned: dict[str, Json]
    """The values chosen for settings that were left open."""


def train_quantized(
    settings: DistillConfig, samples: int, spec: WeightQuantSpec, teacher: Model, result: Model, context: Context
) -> QatResult:
    """Train ``result`` with fake quantisers on the teacher's outputs (Polino et al. 2018, arXiv 1802.05668).

    With uniform levels (algorithm 1), forward and backward passes see rounded weights and activations, and gradients
    go straight through to the float weights. With learned levels (``spec.learned``, section 4), the weights stay
    and their levels are trained, with norms and biases. Scales of activations are learned in both. Then the batch
    normalisations are recalibrated, and the graph is lowered with the learned scales. ``samples`` is the number of
    training images that the first ranges are taken from. Weights of few levels are stored as packed codes.
    """
    assert context.data is not None
    settings = settings.with_method()
    prepared = prepare_teacher(settings, teacher, context)
    rules = catalog.find("backends", context.target.backend)().rules(context.target)
    fake, allocation = _fake_quantized(settings, samples, spec, result, prepared.data, rules, context)
    trained = load_network(result)
    if _is_normalised(trained) and not _is_normalised(fake.module):
        settings = dataclasses.replace(settings, lr=settings.lr * _FOLDED_LR)
    key = [result.sha256, teacher.sha256, context.target.name, rules.weight_bits, dataclasses.asdict(allocation)]
    steps, curve = fit_with_checkpoints(settings, fake.module, prepared, key, context, "qat")
    fake.recalibrate(_plain_batches(prepared.data.samples, _NORM_SAMPLES, context.seed))
    network = deployed(trained)
    network.load_state_dict(fake.weights(network))
    weights = context.workdir / "quantised.safetensors"
    model = result.with_weights(weights, save_weights(network.state_dict(), weights))
    if network is not trained:  # the weights are those of the deployed form
        source = dataclasses.replace(model.torch, settings={**model.torch.settings, "deployed": True})
        model = dataclasses.replace(model, source=source)
    context.progress("lower", 0, 1)
    onnx, packed = _lower(fake, network, spec, allocation, result, rules, context)
    metrics = {**prepared.metrics, **training_metrics(settings, steps, curve), **spec.describe(rules.weight_bits)}
    if allocation.bits or allocation.points:
        metrics |= {"bits": dict(allocation.bits), "points": dict(allocation.points), "packed": packed}
    if (cost := fake.projection_db()) is not None:
        metrics["projection_db"] = cost
    if workers.is_main_process() and context.task.mixed_precision:
        metrics["fake_db"] = _parity_db(fake, onnx, context)
    elif workers.is_main_process():
        metrics["fake_agreement"] = _agreement(fake, onnx, context)
    return QatResult(model, onnx, metrics, {"steps": steps, **prepared.pinned})


def _is_normalised(network: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def batch_loss(
    network: nn.Module, data: DistillationData, objective: Objective, batch: int, seed: int
) -> Callable[[int], Tensor]:
    """A function from a batch's number to the objective of ``network`` on it."""
    samples = data.samples

    def loss(number: int) -> Tensor:
        rows = np.random.default_rng([seed, 6, number]).permutation(len(samples))[:batch]
        images, labels, outputs = data.batch(np.sort(rows), 0)
        with torch.random.fork_rng(devices=[]):  # for the losses' learned modules
            torch.manual_seed(seed)
            adapters = objective.adapters((), (), outputs.shape[1])
        total, _ = objective(adapters, Outputs(network(images)), Outputs(outputs), labels)
        return total

    return loss


def _fake_quantized(
    settings: DistillConfig,
    samples: int,
    spec: WeightQuantSpec,
    result: Model,
    data: DistillationData,
    rules: QdqRules,
    context: Context,
) -> tuple[FakeQuantised, BitAllocation]:
    """The network with fake quantisers at the places that ``rules`` give, and the bits of its weights."""
    network = deployed(load_network(result))
    if spec.learned:
        make_scales_positive(network)
    batches = list(_plain_batches(data.samples, samples, context.seed))
    context.progress("choose bits", 0, 1)
    loss = batch_loss(network, data, objective(settings.losses), settings.batch, context.seed)
    opset, signature, sizes = context.target.opset, result.signature, result.sizes
    allocation = allocate(spec, network, rules, signature, sizes, opset, torch.cat(batches), loss)
    context.progress("place quantisers", 0, 1)
    floats = attention_nodes if context.task.mixed_precision else None
    fake = FakeQuantised(network, rules, signature, sizes, opset, batches, allocation, floats)
    return fake, allocation


def _lower(
    fake: FakeQuantised,
    network: nn.Module,
    spec: WeightQuantSpec,
    allocation: BitAllocation,
    result: Model,
    rules: QdqRules,
    context: Context,
) -> tuple[OnnxModel, dict[str, int]]:
    """The trained network as the target's graph, and the bits of each weight that is stored packed."""
    exact, graph = fake.lowered(network)
    if (bounds := context.task.output_range) is not None:
        exact, graph = clip_output(exact, bounds), clip_output(graph, bounds)
    made_from = save(exact, context.workdir / "float.onnx", "fp32")
    return finish_quantized(
        graph, rules, context.workdir / "model.onnx", made_from,
        packable=bool(allocation.bits or allocation.points), precision=spec.format.precision,
    )  # fmt: skip


def _plain_batches(samples: Samples | Patches, count: int, seed: int) -> Iterator[Tensor]:
    """``count`` training images without augmentation, in batches of equal size.

    Equal sizes give each image the same weight in a mean over batches; a last, smaller batch is left out.
    """
    rows = np.random.default_rng([seed, 3]).permutation(len(samples))[:count]
    size = min(_BATCH, len(rows))
    return (samples.plain(rows[i : i + size]) for i in range(0, len(rows) - size + 1, size))


def _session(onnx: OnnxModel, context: Context) -> Session:
    """The session that judges the target's accuracy on this machine."""
    backend = catalog.find("backends", context.target.backend)()
    return judgement(context.target, backend).open(onnx.path, threads=1)


def _parity_db(fake: FakeQuantised, onnx: OnnxModel, context: Context) -> float:
    """The peak signal-to-noise ratio in dB of the runtime's integer output against torch's float output."""
    assert context.data is not None
    session = _session(onnx, context)
    expected, computed = [], []
    for feeds, _ in context.data.evaluate.batches(1):
        (images,) = feeds.values()
        with torch.inference_mode():
            expected.append(fake.module(torch.from_numpy(images)).clamp(0, 1).numpy())
        computed.append(next(iter(session(feeds).values())))
    return psnr(expected, computed)


def _agreement(fake: FakeQuantised, onnx: OnnxModel, context: Context) -> float:
    """The share of evaluation samples that get the same label from torch's floats and the runtime's integers."""
    assert context.data is not None
    session = _session(onnx, context)
    split = context.data.evaluate
    equal = total = 0
    for feeds, _ in itertools.islice(split.batches(_BATCH), -(-_COMPARED_SAMPLES // _BATCH)):
        context.progress("compare with the runtime", total, min(len(split), _COMPARED_SAMPLES))
        (images,) = feeds.values()
        with torch.inference_mode():
            expected = fake.module(torch.from_numpy(images)).argmax(1).numpy()
        equal += int((next(iter(session(feeds).values())).argmax(1) == expected).sum())
        total += len(images)
    return equal / total
