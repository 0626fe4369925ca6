"""One teacher, three runtimes' rules: our placement against each runtime's own default quantiser.

ONNX Runtime and OpenVINO are timed and judged here. TensorRT is not here: its graph is evaluated exactly on ONNX
Runtime, and shown to be the wrong one for a CPU. One process, one calibration set, all models loaded and timed
interleaved; accuracy by this script's own reading of the images.

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
from compressor.backends._named_session import NamedSession
from compressor.backends._openvino_session import Session as OpenVinoSession
from compressor.bench.statistics import ratio, summarise
from compressor.bench.timing import TimingConfig, interleave
from compressor.core import Backend, InputSpec, Session, image_signature
from compressor.frontend import load_checkpoint
from compressor.lowering.export import export
from compressor.lowering.fp16 import convert_to_fp16
from compressor.lowering.placement import Placement
from compressor.lowering.save import save
from compressor.plan import with_machine_quirks
from compressor.quant.ranges import activation_ranges

Images = NDArray[np.float32]

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TARGETS = {"onnxruntime": "host", "openvino": "intel-core-ultra", "tensorrt": "jetson-orin"}


def accuracy(session: Session, images: Images, labels: NDArray[np.int64]) -> float:
    right = 0
    for start in range(0, len(images), 100):
        scores = session({"input": images[start : start + 100]})["output"]
        right += int((scores.argmax(1) == labels[start : start + 100]).sum())
    return right / len(images)


def placed(source: Path, backend: str, calibration: Images, path: Path) -> Path:
    """Our own quantisation, by the rules of a backend."""
    target = with_machine_quirks(catalog.find_target(TARGETS[backend]))
    rules = catalog.find("backends", backend)().rules(target)
    if backend == "openvino":  # this machine may lack VNNI, which that target has
        rules = dataclasses.replace(rules, weight_bits=host_weight_bits())
    graph = ir.load(source)
    placement = Placement(graph, rules)
    batches = [{"input": calibration[i : i + 10]} for i in range(0, len(calibration), 10)]
    placement.apply(activation_ranges(graph, placement.tensors, batches, "minmax", lambda *_: None))
    if rules.float_dtype == "float16":
        convert_to_fp16(graph)
    return save(graph, path, "int8").path


def host_weight_bits() -> int:
    host = with_machine_quirks(catalog.find_target("host"))
    bits: int = catalog.find("backends", "onnxruntime")().rules(host).weight_bits
    return bits


def timed(sessions: Mapping[str, Session], image: Images, blocks: int) -> Any:
    runners = {name: partial(session, {"input": image}) for name, session in sessions.items()}
    return interleave(runners, TimingConfig(blocks, 20, seconds=300), progress=lambda message, done, total: None)


def print_runtime(
    backend: Backend, sessions: Mapping[str, Session], test: Images, labels: NDArray[np.int64], blocks: int
) -> None:
    """Print the rows of one runtime; the first of its sessions is the float one, the second its own default."""
    base, default, *_ = sessions
    samples = timed(sessions, test[:1], blocks)
    for model, session in sessions.items():
        middle, (low, high) = ratio(samples[base], samples[model], seed=0)
        print(
            f"| {backend.name} {backend.version()} | {model} | {accuracy(session, test, labels):.2%} "
            f"| {summarise(samples[model], 1).median:.3f} | {middle:.2f} ({low:.2f}-{high:.2f}) |",
            flush=True,
        )
    middle, (low, high) = ratio(samples[default], samples["ours"], seed=0)
    print(f"| {backend.name} | ours against its own default | | | {middle:.2f} ({low:.2f}-{high:.2f}) |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--samples", type=int, default=10_000, help="to judge accuracy on, drawn at random")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    train, train_labels = read_zip(arguments.data / "train.zip", MEAN, STD)
    test, labels = read_zip(arguments.data / "test.zip", MEAN, STD)
    judged_on = np.sort(np.random.default_rng(1).permutation(len(test))[: arguments.samples])
    test, labels = test[judged_on], labels[judged_on]
    calibration = train[np.sort(np.random.default_rng(0).choice(len(train), 300, replace=False))]

    work = Path(tempfile.mkdtemp())
    module = load_checkpoint(arguments.model).build().eval()
    signature, sizes = image_signature(InputSpec(*train.shape[1:]), int(train_labels.max()) + 1)
    exact = save(export(module, signature, sizes, 20), work / "exact.onnx", "fp32").path
    ours = {name: placed(exact, name, calibration, work / f"{name}.onnx") for name in TARGETS}
    quantize_static(str(exact), str(work / "static.onnx"), Reader(calibration))
    rival = nncf.quantize(
        openvino.Core().read_model(str(exact)), nncf.Dataset([image[None] for image in calibration]), subset_size=300
    )
    openvino.save_model(rival, str(work / "nncf.xml"))

    print("| runtime | model | top1 | median ms | against its fp32 (90 %) |")
    print("|---|---|---|---|---|")
    runtime, openvino_backend = (catalog.find("backends", name)() for name in ("onnxruntime", "openvino"))
    files = {
        "fp32": exact,
        "its own default (quantize_static)": work / "static.onnx",
        "ours": ours["onnxruntime"],
        "ours, for OpenVINO": ours["openvino"],
        "ours, for TensorRT": ours["tensorrt"],
    }
    sessions: dict[str, Session] = {name: runtime.open(path, threads=1) for name, path in files.items()}
    print_runtime(runtime, sessions, test, labels, arguments.blocks)
    files = {
        "ours": ours["openvino"],
        "ours, for ONNX Runtime": ours["onnxruntime"],
        "ours, for TensorRT": ours["tensorrt"],
    }
    sessions = {
        "fp32": openvino_backend.open(exact, threads=1),
        # The backend opens ONNX files. The IR has the inputs and outputs of the graph that it was made from.
        "its own default (NNCF on its IR)": NamedSession(OpenVinoSession(work / "nncf.xml", 1), exact),
        **{name: openvino_backend.open(path, threads=1) for name, path in files.items()},
    }
    print_runtime(openvino_backend, sessions, test, labels, arguments.blocks)
    judged = runtime.open(ours["tensorrt"], threads=1, exact=True)
    print(f"| TensorRT, evaluated exactly | ours | {accuracy(judged, test, labels):.2%} | | |")


if __name__ == "__main__":
    main()
