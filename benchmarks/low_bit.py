"""Few bits a weight: rounding after training, quantized distillation, differentiable quantization.

    python benchmarks/low_bit.py resnet56_cifar10.pt cifar10 [--epochs N] [--more N]

One student (ResNet-8 of ResNet-56's family) is distilled in float. Then each method quantises it to 2, 4 and 8 bits of
the inner layers' weights (the first and the last layer keep 8), in two formats: for INT8 kernels (a scale for each
output channel, activations in 8 bits), and that of Polino et al. (buckets of 256 weights, numbers of points by the
weights' gradients, activations in float). The methods that train take the same number of steps on the teacher's stored
outputs. Accuracy is ONNX Runtime's on all test images; bytes are those of the file that it loads, and of its
Huffman-coded form. Rows that are in the output file already are not trained again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.bundle.storage import stored
from compressor.core import InputSpec, image_signature
from compressor.data import Prepared, Source, load_data
from compressor.frontend import load_checkpoint
from compressor.losses import objective
from compressor.lowering.export import export
from compressor.lowering.packing import pack_weights
from compressor.lowering.save import save
from compressor.models.cifar_resnet import CifarResNet
from compressor.passes.distill import Distill
from compressor.plan import with_machine_quirks
from compressor.preprocessing import parse_normalization
from compressor.quant.allocate import allocate
from compressor.quant.fake_quant import FakeQuantised
from compressor.quant.positive_scales import make_scales_positive
from compressor.quant.weight_spec import WeightFormat, WeightQuantSpec
from compressor.scores.common.probe import untrained
from compressor.tasks.classification import Classification
from compressor.train.augmentation import Augmentation
from compressor.train.distillation_data import DistillationData
from compressor.train.fit import Duration, fit
from compressor.train.predictor import make_predictor
from compressor.train.qat import batch_loss
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets

INPUT, OPSET = InputSpec(3, 32, 32), 21
SIGNATURE, SIZES = image_signature(INPUT, 10)
STUDENT = CifarResNet((1, 1, 1))
METHODS = ("post-hoc", "quantized distillation", "differentiable quantization")
FORMATS = {"INT8 kernels": WeightFormat(), "the paper's": WeightFormat(integer_kernels=False, bucket_size=256)}


def quiet(message: str, done: int, total: int) -> None:
    return


def learn(module: nn.Module, data: DistillationData, steps: int, **changed: float) -> None:
    settings = Distill(warmup=0.15, **changed)  # type: ignore[arg-type]
    fit(
        module, data, objective(settings.losses), settings.optimizer_config, Duration(steps=steps), seed=0,
        device="cpu", checkpoint=None, remember=lambda compute: compute(), progress=quiet,
    )  # fmt: skip


def judged(graph: ir.Model, data: Prepared, folder: Path) -> tuple[float, int, int]:
    """Accuracy on the runtime, the file's bytes, and those of its smallest form."""
    path = save(graph, folder / "model.onnx", "int8").path
    session = catalog.find("backends", "onnxruntime")().open(path, threads=1)
    metric, _ = Classification().evaluate(session, data.evaluate, 250, quiet)
    return metric.value, path.stat().st_size, len(stored(path.read_bytes()))


@dataclass(frozen=True)
class Quantiser:
    """Makes the graphs of the student, by each method."""

    student: nn.Module
    targets: SoftTargets
    steps: int
    """Steps of the methods that train."""
    lr: tuple[float, float]
    """The learning rate of weights, and that of learned points."""

    def __call__(self, format: WeightFormat, method: str, bits: int) -> ir.Model:
        samples = self.targets.samples
        rules = catalog.find("backends", "onnxruntime")().rules(with_machine_quirks(catalog.find_target("host")))
        drawn = np.random.default_rng(0).permutation(len(samples))[:4992]  # neighbours in the data are of one class
        plain = [np.sort(rows) for rows in np.split(drawn, 78)]
        batches = [samples.plain(rows) for rows in plain[:5]]
        network, learned = copy.deepcopy(self.student), method == METHODS[2]
        if learned:
            make_scales_positive(network)
        spec = WeightQuantSpec(bits, 8, learned, redistributed=not format.integer_kernels, format=format)
        loss: Callable[[int], Tensor] = batch_loss(network, self.targets, objective(Distill().losses), 128, 0)
        allocation = allocate(spec, network, rules, SIGNATURE, SIZES, OPSET, batches[0], loss)
        fake = FakeQuantised(network, rules, SIGNATURE, SIZES, OPSET, batches, allocation)
        if method != METHODS[0]:
            # A bucket's points are relative to the span from its least to its largest weight, which is twice as long as
            # a channel's from zero: so are their gradients.
            lr = self.lr[learned] / (4 if learned and format.bucket_size else 1)
            learn(fake.module, self.targets, self.steps, lr=lr)
            fake.recalibrate(samples.plain(rows) for rows in plain)
            network.load_state_dict(fake.weights(network))
        return fake.lowered(network)[1]


def float_student(kept: Path, targets: SoftTargets, steps: int) -> nn.Module:
    """The student in float; a later call reads it from ``kept``."""
    student = untrained(STUDENT, 0)
    if kept.exists():
        student.load_state_dict(torch.load(kept, weights_only=True))
    else:
        learn(student, targets, steps)
        torch.save(student.state_dict(), kept)
    return student.eval()


def print_table(rows: list[dict[str, Any]]) -> None:
    print("\n| form | method | bits | top1 | bytes | Huffman-coded |\n|---|---|---|---|---|---|")
    for row in rows:
        bits, sizes = row["bits"] or 32, f"{row['bytes']:,} | {row['stored']:,}"
        print(f"| {row['form']} | {row['method']} | {bits} | {row['top1']:.2%} | {sizes} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=12, help="of the float student")
    parser.add_argument("--more", type=int, default=2, help="epochs with quantisers")
    parser.add_argument("--lr", type=float, nargs=2, default=[0.02, 0.002], help="for weights, and for learned points")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    scaling = parse_normalization("imagenet", 3)
    source = load_data(options.data)
    assert isinstance(source, Source)
    data = source.prepare(INPUT, scaling, SIGNATURE.input.name)
    assert data.train is not None
    samples = Samples(data.train, INPUT, scaling, 10, Augmentation(0.125, True), 0)
    targets = SoftTargets(samples, 2, Path(mkdtemp()), "teacher")
    targets.prepare(make_predictor(load_checkpoint(options.teacher).build(), "auto", "cpu", Path(mkdtemp())), quiet)
    epoch = len(samples) // 128
    student = float_student(options.out.with_suffix(".pt"), targets, options.epochs * epoch)
    quantise = Quantiser(student, targets, options.more * epoch, tuple(options.lr))
    folder = Path(mkdtemp())

    def add(form: str, method: str, bits: int | None, graph: ir.Model) -> None:
        pack_weights(graph)
        top1, size, least = judged(graph, data, folder)
        rows.append({"form": form, "method": method, "bits": bits, "top1": top1, "bytes": size, "stored": least})
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(rows[-1], flush=True)

    done = {(row["form"], row["method"], row["bits"]) for row in rows}
    if ("", "float", None) not in done:
        add("", "float", None, export(student, SIGNATURE, SIZES, OPSET))
    for (form, format), bits, method in itertools.product(FORMATS.items(), (8, 4, 2), METHODS):
        if (form, method, bits) not in done and not (bits == 8 and method == METHODS[2]):
            add(form, method, bits, quantise(format, method, bits))
    print_table(rows)


if __name__ == "__main__":
    main()
