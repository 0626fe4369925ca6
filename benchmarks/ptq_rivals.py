"""Post-training INT8 against its rivals: ONNX Runtime's own static quantisation and plain NNCF.

One process, one calibration set, all models loaded and timed interleaved; accuracy by this script's own reading of
the images, not by the program's.

    python benchmarks/ptq_rivals.py MODEL --data FOLDER --run DIR

DIR is a finished ``compress run MODEL --data FOLDER --profile ptq -o DIR``; FOLDER holds train.zip
and test.zip of JPEG files in class folders.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["NNCF_CI"] = "1"  # no telemetry

import nncf
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from PIL import Image

from compressor.bench.statistics import ratio, summarise
from compressor.bench.timing import Blocks, TimingConfig, interleave
from compressor.frontend import load_checkpoint

Images = NDArray[np.float32]


def read_zip(path: Path, mean: list[float], std: list[float]) -> tuple[Images, NDArray[np.int64]]:
    """All images of an archive, N x C x H x W, normalised, and their labels by sorted class name."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        classes = sorted({n.split("/")[-2] for n in names})
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names])
    labels = np.array([classes.index(n.split("/")[-2]) for n in names])
    scaled = (pixels.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), labels


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def accuracy(path: Path, images: Images, labels: NDArray[np.int64]) -> float:
    model = session(path, threads=os.cpu_count() or 1)
    name = model.get_inputs()[0].name
    right = 0
    for start in range(0, len(images), 100):
        scores = model.run(None, {name: images[start : start + 100]})[0]
        right += int((scores.argmax(1) == labels[start : start + 100]).sum())
    return right / len(images)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Images) -> None:
        self._rest: Iterator[Images] = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        image = next(self._rest, None)
        return None if image is None else {"input": image[None]}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


VARIANTS: dict[str, dict[str, Any]] = {
    "ONNX Runtime static, default": {},
    "ONNX Runtime static, per channel": {"per_channel": True},
    "ONNX Runtime static, U8S8 per channel": {"per_channel": True, "activation_type": QuantType.QUInt8},
    "ONNX Runtime static, U8S8 per channel, 7-bit": {
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "reduce_range": True,
    },
}


def export(module: torch.nn.Module, shape: list[int], opset: int, path: Path) -> None:
    """Export as torch does it by default; ``shape`` is that of one image."""
    program = torch.onnx.export(
        module,
        (torch.zeros(2, *shape),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=opset,
        input_names=["input"],
        verbose=False,
    )
    assert program is not None
    program.save(path)


def print_table(files: dict[str, Path], blocks: Mapping[str, Blocks], test: Images, labels: NDArray[np.int64]) -> None:
    base = blocks["fp32 export, bare"]
    print("| model | bytes | top1 | median ms | against the bare fp32 export (90 %) |")
    print("|---|---|---|---|---|")
    for name, path in files.items():
        middle, (low, high) = ratio(base, blocks[name], seed=0)
        print(
            f"| {name} | {path.stat().st_size:,} | {accuracy(path, test, labels):.2%} "
            f"| {summarise(blocks[name], 1).median:.3f} | {middle:.3f} ({low:.3f}-{high:.3f}) |"
        )
    rivals = [name for name in files if name.startswith(("NNCF", "ONNX Runtime"))]
    best = max(rivals, key=lambda name: ratio(base, blocks[name], seed=0)[0])
    middle, (low, high) = ratio(blocks[best], blocks["compressor ptq"], seed=0)
    print(f"\nThe fastest rival is {best}; ours is {middle:.3f}x as fast ({low:.3f}-{high:.3f}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=40)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    report = json.loads((arguments.run / "report.json").read_text())
    manifest = json.loads((arguments.run / "bundle" / "manifest.json").read_text())
    entry = manifest["input"]
    train, _ = read_zip(arguments.data / "train.zip", entry["mean"], entry["std"])
    test, labels = read_zip(arguments.data / "test.zip", entry["mean"], entry["std"])
    drawn = np.random.default_rng(0).choice(len(train), 300, replace=False)
    calibration = train[np.sort(drawn)]

    work = Path(tempfile.mkdtemp())
    module = load_checkpoint(arguments.model).build()
    bare = work / "bare.onnx"
    _, export_seconds = timed(lambda: export(module, entry["shape"][1:], manifest["opset"], bare))
    dataset = nncf.Dataset(list(calibration), lambda image: {"input": image[None]})
    quantised, nncf_seconds = timed(lambda: nncf.quantize(onnx.load(str(bare)), dataset, subset_size=len(calibration)))
    onnx.save(quantised, str(work / "nncf.onnx"))
    files = {"fp32 export, bare": bare, "NNCF": work / "nncf.onnx"}
    files["fp32 export, ours"] = next((arguments.run / "cache").glob("lower-*")) / "teacher.onnx"
    for number, (name, settings) in enumerate(VARIANTS.items()):
        files[name] = work / f"static{number}.onnx"
        quantize_static(str(bare), str(files[name]), Reader(calibration), **settings)
    files["compressor ptq"] = arguments.run / "bundle" / manifest["engine"]["file"]

    image = test[:1]
    models = {name: session(path, threads=1) for name, path in files.items()}
    runners = {name: (lambda m=model: m.run(None, {"input": image})) for name, model in models.items()}
    config = TimingConfig(arguments.blocks, 20, seconds=600)
    print_table(files, interleave(runners, config, progress=lambda message, done, total: None), test, labels)
    seconds = {record["kind"]: record["seconds"] for record in report["passes"]}
    ours = seconds["lower"] + seconds["quantize"]
    rival = export_seconds + nncf_seconds
    print(
        f"lower {seconds['lower']:.1f} s + quantize {seconds['quantize']:.1f} s = {ours:.1f} s; bare export "
        f"{export_seconds:.1f} s + bare NNCF {nncf_seconds:.1f} s = {rival:.1f} s: {ours / rival:.2f}x the time."
    )


if __name__ == "__main__":
    main()
