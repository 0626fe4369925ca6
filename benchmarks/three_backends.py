"""One teacher, three runtimes' rules: our placement against each runtime's own default quantiser.

ONNX Runtime and OpenVINO are timed and judged here; of TensorRT, which is not here, the graph is judged on ONNX
Runtime's exact evaluation, and shown to be the wrong one for a CPU. One process, one calibration set, all models
resident and timed interleaved; accuracy by this script's own reading of the images.

    python benchmarks/three_backends.py MODEL --data FOLDER

FOLDER holds train.zip and test.zip of JPEG files in class folders; MODEL is one of the families that read them with
ImageNet's mean and deviation.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ["NNCF_CI"] = "1"  # no telemetry

import nncf
import numpy as np
import onnx_ir as ir
import openvino
from numpy.typing import NDArray
from onnxruntime.quantization import quantize_static
from ptq_rivals import Reader, read_zip

from compressor import catalog
from compressor.bench.statistics import ratio, summarise
from compressor.bench.timing import TimingConfig, interleave
from compressor.core import InputSpec, Session
from compressor.lowering.export import export
from compressor.lowering.save import save
from compressor.frontend import load_checkpoint
from compressor.plan import with_machine_quirks
from compressor.lowering.fp16 import convert_to_fp16
from compressor.lowering.placement import Placement
from compressor.quant.ranges import activation_ranges

Images = NDArray[np.float32]

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TARGETS = {"onnxruntime": "host", "openvino": "intel-core-ultra", "tensorrt": "jetson-orin"}


def accuracy(session: Session, images: Images, labels: NDArray[np.int64]) -> float:
    right = 0
    for start in range(0, len(images), 100):
        right += int((session(images[start : start + 100]).argmax(1) == labels[start : start + 100]).sum())
    return right / len(images)


def placed(source: Path, backend: str, calibration: Images, path: Path) -> Path:
    """Our own quantisation, by the rules of a backend."""
    target = with_machine_quirks(catalog.find_target(TARGETS[backend]))
    rules = catalog.find("backends", backend)().rules(target)
    if backend == "openvino":  # this machine may lack VNNI, which that target has
        rules = dataclasses.replace(rules, weight_bits=at_hand_bits())
    graph = ir.load(source)
    placement = Placement(graph, rules)
    batches = [calibration[i : i + 10] for i in range(0, len(calibration), 10)]
    placement.apply(activation_ranges(graph, placement.tensors, batches, "minmax", lambda *_: None))
    if rules.float_dtype == "float16":
        convert_to_fp16(graph)
    return save(graph, path, "int8").path


def at_hand_bits() -> int:
    host = with_machine_quirks(catalog.find_target("host"))
    bits: int = catalog.find("backends", "onnxruntime")().rules(host).weight_bits
    return bits


def timed(sessions: Mapping[str, Session], image: Images, blocks: int) -> Any:
    runners = {name: partial(session, image) for name, session in sessions.items()}
    return interleave(runners, TimingConfig(blocks, 20, seconds=300), progress=lambda message, done, total: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--samples", type=int, default=10_000, help="to judge accuracy on, drawn by chance")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    train, _ = read_zip(arguments.data / "train.zip", MEAN, STD)
    test, labels = read_zip(arguments.data / "test.zip", MEAN, STD)
    judged_on = np.sort(np.random.default_rng(1).permutation(len(test))[: arguments.samples])
    test, labels = test[judged_on], labels[judged_on]
    calibration = train[np.sort(np.random.default_rng(0).choice(len(train), 300, replace=False))]

    work = Path(tempfile.mkdtemp())
    shape = train.shape[1:]
    module = load_checkpoint(arguments.model).build().eval()
    exact = save(export(module, InputSpec(*shape), 20), work / "exact.onnx", "fp32").path
    ours = {name: placed(exact, name, calibration, work / f"{name}.onnx") for name in TARGETS}
    quantize_static(str(exact), str(work / "static.onnx"), Reader(calibration))
    rival = nncf.quantize(
        openvino.Core().read_model(str(exact)), nncf.Dataset([image[None] for image in calibration]), subset_size=300
    )
    openvino.save_model(rival, str(work / "nncf.xml"))

    tables = {
        "onnxruntime": {
            "fp32": exact,
            "its own default (quantize_static)": work / "static.onnx",
            "ours": ours["onnxruntime"],
            "ours, for OpenVINO": ours["openvino"],
            "ours, for TensorRT": ours["tensorrt"],
        },
        "openvino": {
            "fp32": exact,
            "its own default (NNCF on its IR)": work / "nncf.xml",
            "ours": ours["openvino"],
            "ours, for ONNX Runtime": ours["onnxruntime"],
            "ours, for TensorRT": ours["tensorrt"],
        },
    }
    print("| runtime | model | top1 | median ms | against its fp32 (90 %) |")
    print("|---|---|---|---|---|")
    for runtime, files in tables.items():
        backend = catalog.find("backends", runtime)()
        sessions = {name: backend.open(path, threads=1) for name, path in files.items()}
        blocks = timed(sessions, test[:1], arguments.blocks)
        for name in files:
            middle, (low, high) = ratio(blocks["fp32"], blocks[name], seed=0)
            print(
                f"| {runtime} {backend.version()} | {name} | {accuracy(sessions[name], test, labels):.2%} "
                f"| {summarise(blocks[name], 1).median:.3f} | {middle:.2f} ({low:.2f}-{high:.2f}) |",
                flush=True,
            )
        default = next(name for name in files if name.startswith("its own"))
        middle, (low, high) = ratio(blocks[default], blocks["ours"], seed=0)
        print(f"| {runtime} | ours against its own default | | | {middle:.2f} ({low:.2f}-{high:.2f}) |", flush=True)
    judged = catalog.find("backends", "onnxruntime")().open(ours["tensorrt"], threads=1, exact=True)
    print(f"| TensorRT, evaluated exactly | ours | {accuracy(judged, test, labels):.2%} | | |")


if __name__ == "__main__":
    main()
