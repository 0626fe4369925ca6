"""Quantised distillation to the target's integers, and the graph that comes of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.bench.machine import fits, machine
from compressor.core import Context, Json, Model, OnnxModel
from compressor.export import guarded
from compressor.export import save as save_graph
from compressor.frontend import load, save
from compressor.losses import Objective, Outputs, objective
from compressor.quant.choosing import choose
from compressor.quant.fake import FakeQuantised
from compressor.quant.half import halved
from compressor.quant.levels import WeightQuantSpec
from compressor.quant.packing import pack
from compressor.quant.mixed_precision import attention, decibels
from compressor.quant.positive_scales import make_scales_positive
from compressor.train import workers
from compressor.train.distil import Taught
from compressor.train.distill_config import DistillConfig
from compressor.train.patches import Patches
from compressor.train.samples import Samples
from compressor.train.student import learned, prepared, told

__all__ = ["Quantised", "distil_quantised", "loss_of"]

_BATCH = 64
_NORMS = 5_000
"""Images that the batch normalisations' statistics are taken anew from."""
_JUDGED = 10_000


@dataclasses.dataclass(frozen=True)
class Quantised:
    """A network trained with its quantisers, in floats and as the target's graph."""

    model: Model
    onnx: OnnxModel
    metrics: dict[str, Json]
    pinned: dict[str, Json]


def distil_quantised(
    lessons: DistillConfig, samples: int, asked: WeightQuantSpec, teacher: Model, result: Model, context: Context
) -> Quantised:
    """Train ``result`` with fake quantisers on the teacher's answers (Polino et al. 2018, algorithm 1).

    Forward and backward passes see rounded weights and activations, gradients go straight through to the
    float weights; scales of activations are learned. Then the batch normalisations are recalibrated, and the
    graph is placed on the learned grids. ``samples`` training images are what first ranges are taken from.
    Where points are ``asked`` to be learned, weights stay as they are and the points that stand for them are
    trained instead (section 4), with the norms and biases. Weights of few levels are stored as codes.
    """
    assert context.data is not None
    ready = prepared(lessons, teacher, context)
    network = load(result)
    if asked.learned:
        make_scales_positive(network)
    rules = catalog.find("backends", context.target.backend)().rules(context.target)
    plain: Samples | Patches = ready.taught.samples
    first = list(_images(plain, samples, context.seed))
    context.progress("choose bits", 0, 1)
    loss = loss_of(network, ready.taught, objective(lessons.losses), lessons.batch, context.seed)
    levels = choose(asked, network, rules, result.input, context.target.opset, torch.cat(first), loss)
    context.progress("place quantisers", 0, 1)
    images = result.enlarges is not None
    fake = FakeQuantised(
        network, rules, result.input, context.target.opset, first, levels, attention if images else None,
        any_size=images,
    )  # fmt: skip
    key = [result.sha256, teacher.sha256, context.target.name, rules.weight_bits, dataclasses.asdict(levels)]
    steps, curve = learned(lessons, fake.module, ready, key, context, "distil quantised")
    fake.recalibrate(_images(plain, _NORMS, context.seed))
    network = load(result)
    network.load_state_dict(fake.weights(network))
    weights = context.workdir / "quantised.safetensors"
    model = replace(result, weights=weights, sha256=save(network.state_dict(), weights))
    context.progress("lower", 0, 1)
    exact, graph = fake.lowered(network)
    if images:
        exact, graph = guarded(exact), guarded(graph)
    packed = pack(graph) if rules.folds_packed_weights and (levels.bits or levels.points) else {}
    if rules.float_dtype == "float16":
        halved(graph)
    made_from = save_graph(exact, context.workdir / "float.onnx", "fp32")
    onnx = save_graph(graph, context.workdir / "model.onnx", asked.form.precision, made_from)
    metrics = {
        **ready.metrics,
        **told(lessons, steps, curve),
        **asked.told(rules.weight_bits),
    }
    if levels.bits or levels.points:
        metrics |= {"bits": dict(levels.bits), "points": dict(levels.points), "packed": packed}
    if (cost := fake.projection_db()) is not None:
        metrics["projection_db"] = cost
    if workers.is_main_process() and images:
        metrics["fake_db"] = _parity(fake, onnx, context)
    elif workers.is_main_process():
        metrics["fake_agreement"] = _agreement(fake, onnx, context)
    return Quantised(model, onnx, metrics, {"steps": steps, **ready.pinned})


def loss_of(network: nn.Module, taught: Taught, terms: Objective, batch: int, seed: int) -> Callable[[int], Tensor]:
    """What ``network`` is to minimise, of a batch by its number."""
    samples = taught.samples

    def loss(number: int) -> Tensor:
        rows = np.random.default_rng([seed, 6, number]).permutation(len(samples))[:batch]
        images, labels, logits = taught.batch(np.sort(rows), 0)
        total, _ = terms(terms.adapters((), ()), Outputs(network(images)), Outputs(logits), labels)
        return total

    return loss


def _images(samples: Samples | Patches, count: int, seed: int) -> Iterator[Tensor]:
    """Training images as they are, in batches of one size: each counts alike in a mean over batches."""
    rows = np.random.default_rng([seed, 3]).permutation(len(samples))[:count]
    size = min(_BATCH, len(rows))
    return (samples.plain(rows[i : i + size]) for i in range(0, len(rows) - size + 1, size))


def _parity(fake: FakeQuantised, onnx: OnnxModel, context: Context) -> float:
    """The peak signal-to-noise in dB between what torch makes, in floats, and the runtime, in integers."""
    assert context.data is not None
    exact = fits(context.target, machine()) is not None
    session = catalog.find("backends", context.target.backend)().open(onnx.path, threads=1, exact=exact)
    ours, theirs = [], []
    for images, _ in context.data.evaluate.batches(1):
        with torch.inference_mode():
            ours.append(fake.module(torch.from_numpy(images)).clamp(0, 1).numpy())
        theirs.append(session(images))
    return decibels(ours, theirs)


def _agreement(fake: FakeQuantised, onnx: OnnxModel, context: Context) -> float:
    """The share of evaluation samples that torch, in floats, and the runtime, in integers, label alike."""
    assert context.data is not None
    # As the measure pass does: on another CPU than the target's, kernels may saturate where the target's do not.
    exact = fits(context.target, machine()) is not None
    session = catalog.find("backends", context.target.backend)().open(onnx.path, threads=1, exact=exact)
    split = context.data.evaluate
    alike = total = 0
    for images, _ in itertools.islice(split.batches(_BATCH), -(-_JUDGED // _BATCH)):
        context.progress("compare with the runtime", total, min(len(split), _JUDGED))
        with torch.inference_mode():
            expected = fake.module(torch.from_numpy(images)).argmax(1).numpy()
        alike += int((session(images).argmax(1) == expected).sum())
        total += len(images)
    return alike / total
