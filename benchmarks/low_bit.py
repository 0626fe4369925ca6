"""Few bits a weight: rounding after training, quantized distillation, differentiable quantization.

    python benchmarks/low_bit.py resnet56_cifar10.pt cifar10 [--epochs N] [--more N]

One student (ResNet-8 of ResNet-56's family), distilled in float; then each method at 2, 4 and 8 bits of the inner
layers' weights (the first and the last layer keep 8), in two forms: on INT8 kernels (a scale for each output channel,
activations in 8 bits), and as Polino et al. have it (buckets of 256 weights, points redistributed by their gradients,
activations in float). The methods that train take the same number of steps on the teacher's stored outputs. Accuracy
is ONNX Runtime's on all test images; bytes are those of the file that it loads, and of its Huffman-coded form. Rows
that are in the output file already are not trained again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from compressor import catalog
from compressor.bundle.storage import stored
from compressor.core import Data, InputSpec
from compressor.data import load_data
from compressor.lowering.export import export
from compressor.lowering.save import save
from compressor.frontend import load_checkpoint
from compressor.losses import objective
from compressor.models.cifar_resnet import CifarResNet
from compressor.passes.distill import Distill
from compressor.plan import with_machine_quirks
from compressor.preprocessing import parse_normalization
from compressor.quant.choosing import choose
from compressor.quant.fake import FakeQuantised
from compressor.quant.levels import BitAllocation, Form, WeightQuantSpec
from compressor.lowering.packing import pack
from compressor.quant.positive_scales import make_scales_positive
from compressor.scores.common.probe import untrained
from compressor.train.augmentation import Augmentation
from compressor.train.distillation_data import DistillationData
from compressor.train.fit import Duration, fit
from compressor.train.predictor import make_predictor
from compressor.train.qat import batch_loss
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets

INPUT, OPSET = InputSpec(3, 32, 32), 21
STUDENT = CifarResNet((1, 1, 1))
METHODS = ("post-hoc", "quantized distillation", "differentiable quantization")
FORMS = {"INT8 kernels": Form(), "the paper's": Form(False, 256)}


def quiet(message: str, done: int, total: int) -> None:
    return


def learn(module: nn.Module, data: DistillationData, steps: int, **changed: float) -> None:
    settings = Distill(warmup=0.15, **changed)  # type: ignore[arg-type]
    fit(
        module, data, objective(settings.losses), settings.optimizer_config, Duration(steps=steps), seed=0,
        device="cpu", checkpoint=None, remember=lambda compute: compute(), progress=quiet,
    )  # fmt: skip


def judged(graph: ir.Model, data: Data, folder: Path) -> tuple[float, int, int]:
    """Accuracy on the runtime, the file's bytes, and those of its smallest form."""
    path = save(graph, folder / "model.onnx", "int8").path
    session = catalog.find("backends", "onnxruntime")().open(path, threads=1)
    right = sum(int((session(images).argmax(1) == labels).sum()) for images, labels in data.evaluate.batches(250))
    return right / len(data.evaluate), path.stat().st_size, len(stored(path.read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=12, help="of the float student")
    parser.add_argument("--more", type=int, default=2, help="epochs with quantisers")
    parser.add_argument("--lr", type=float, nargs=2, default=[0.02, 0.002], help="for weights, and for learned levels")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    scaling = parse_normalization("imagenet", 3)
    data = load_data(options.data).prepare(INPUT, scaling)
    assert data.train is not None
    samples = Samples(data.train, INPUT, scaling, 10, Augmentation(0.125, True), 0)
    targets = SoftTargets(samples, 2, Path(mkdtemp()), "teacher")
    targets.prepare(make_predictor(load_checkpoint(options.teacher).build(), "auto", "cpu"), quiet)
    epoch = len(samples) // 128
    kept = options.out.with_suffix(".pt")
    student = untrained(STUDENT, 0)
    if kept.exists():
        student.load_state_dict(torch.load(kept, weights_only=True))
    else:
        learn(student, targets, options.epochs * epoch)
        torch.save(student.state_dict(), kept)
    student.eval()
    rules = catalog.find("backends", "onnxruntime")().rules(with_machine_quirks(catalog.find_target("host")))
    drawn = np.random.default_rng(0).permutation(len(samples))[:4992]  # as they lie there, they are of one class
    plain = [np.sort(rows) for rows in np.split(drawn, 78)]
    some = [samples.plain(rows) for rows in plain[:5]]
    folder = Path(mkdtemp())

    def told(form: str, method: str, bits: int | None, graph: ir.Model) -> None:
        pack(graph)
        reached, size, least = judged(graph, data, folder)
        rows.append({"form": form, "method": method, "bits": bits, "top1": reached, "bytes": size, "stored": least})
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(rows[-1], flush=True)

    there = {(row["form"], row["method"], row["bits"]) for row in rows}
    if ("", "float", None) not in there:
        told("", "float", None, export(student, INPUT, OPSET))
    for (form, held), bits, method in itertools.product(FORMS.items(), (8, 4, 2), METHODS):
        if (form, method, bits) in there or (bits == 8 and method == METHODS[2]):
            continue
        network, learned = copy.deepcopy(student), method == METHODS[2]
        if learned:
            make_scales_positive(network)
        asked = WeightQuantSpec(bits, 8, learned, redistributed=not held.integers, form=held)
        loss = batch_loss(network, targets, objective(Distill().losses), 128, 0)
        levels: BitAllocation = choose(asked, network, rules, INPUT, OPSET, some[0], loss)
        fake = FakeQuantised(network, rules, INPUT, OPSET, some, levels)
        if method != METHODS[0]:
            # From a bucket's least to its largest weight is twice as far as from zero: points, and their gradients.
            lr = options.lr[learned] / (4 if learned and held.bucket else 1)
            learn(fake.module, targets, options.more * epoch, lr=lr)
            fake.recalibrate(samples.plain(rows) for rows in plain)
            network.load_state_dict(fake.weights(network))
        told(form, method, bits, fake.lowered(network)[1])
    print("\n| form | method | bits | top1 | bytes | Huffman-coded |\n|---|---|---|---|---|---|")
    for row in rows:
        told_bits, sizes = row["bits"] or 32, f"{row['bytes']:,} | {row['stored']:,}"
        print(f"| {row['form']} | {row['method']} | {told_bits} | {row['top1']:.2%} | {sizes} |")


if __name__ == "__main__":
    main()
