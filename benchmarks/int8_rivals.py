"""INT8 of networks that quantisers stumble over: ours, ONNX Runtime's, NNCF's, side by side.

    python benchmarks/int8_rivals.py --traps TRAPS --cache DIR [--only NAME...] [--target host] [-o TABLE.md]

TRAPS is a folder with ``traps.py``, networks for 32 x 32 px images of ten classes, and ``make.py``, which trains one in
seconds and labels its images with its own answers: top-1 is the agreement with the float network. Each network is
compressed by ``compress run --profile ptq`` in a process of its own; its rivals are made from the same fp32 graph and
the same calibration samples. Agreement is over the held-out fifth; all graphs of a row are timed interleaved, on one
thread: the ratio to the fp32 graph with its 90 % interval. A target of OpenVINO's has all graphs compiled by OpenVINO,
on this CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["NNCF_CI"] = "1"  # no telemetry

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from rivals import RIVALS

from compressor import catalog
from compressor.bench.statistics import ratio
from compressor.bench.timing import TimingConfig, interleave
from compressor.core import InputSpec
from compressor.data import RawSplit, load_data

NAMES = (
    "dense", "mbv3", "vit", "vit_masked", "narrow", "convtranspose4", "two_outputs", "shared_conv", "square", "preact",
    "group1", "resize_nearest", "repvgg", "prelu", "empty_slice", "gru",
)  # fmt: skip
_CALIBRATED, _BATCH = 300, 100
_DROP = 0.01
"""What NNCF's accuracy control may lose."""


@dataclass(frozen=True)
class Row:
    """A network by one quantiser."""

    network: str
    by: str
    agreement: float | None
    speed: tuple[float, tuple[float, float]] | None
    bytes: int
    seconds: float
    note: str = ""

    def __str__(self) -> str:
        agreed = "" if self.agreement is None else f"{self.agreement:.2%}"
        fast = "" if self.speed is None else f"{self.speed[0]:.2f}x ({self.speed[1][0]:.2f}–{self.speed[1][1]:.2f})"
        return (
            f"| {self.network} | {self.by} | {agreed} | {fast} | {self.bytes:,} | {self.seconds:.0f} s | {self.note} |"
        )


def made(name: str, options: argparse.Namespace) -> Path:
    """Train a network, once."""
    path: Path = options.cache / f"{name}.pt"
    if not path.is_file():
        make = [sys.executable, "-B", "make.py", name, str(options.cache)]
        subprocess.run(make, cwd=options.traps, check=True, stdout=subprocess.DEVNULL)
    return path


def compressed(name: str, profile: str, options: argparse.Namespace) -> tuple[Path, float]:
    """Run ``compress``; return the run's folder and the seconds that it took."""
    folder = options.cache / f"{name}-{options.target}-{profile}"
    command = [
        sys.executable, "-B", "-m", "compressor", "run", str(options.cache / f"{name}.pt"), "--arch", f"traps:{name}",
        "--data", str(options.cache / f"{name}.npz"), "--input", "3x32x32", "--normalize", "unit", "--profile", profile,
        "--target", options.target, "--fresh", "-o", str(folder), "--set", "measure.seconds=3",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{options.traps}:{os.environ.get('PYTHONPATH', '')}"}
    begun = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder, time.perf_counter() - begun


class Labels:
    """The samples of a network, split as the program splits them."""

    def __init__(self, path: Path) -> None:
        source: Any = load_data(str(path))
        self.train: RawSplit = source.train
        self.held: RawSplit = source.evaluate

    @staticmethod
    def batches(split: RawSplit, count: int, size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        for rows in np.array_split(np.arange(count), -(-count // size)):
            yield split.pixels(rows, InputSpec(3, 32, 32)) * np.float32(1 / 255), split.labels[rows]


Runtime = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Maps images to the first output."""


def opened(path: Path, backend: str) -> Runtime:
    """Load an ONNX file into a runtime, on one thread."""
    if backend == "openvino":
        from compressor.backends._openvino_session import Session

        model = onnx.load(str(path))
        feed, first, compiled = model.graph.input[0].name, model.graph.output[0].name, Session(path, 1)
        return lambda images: np.asarray(compiled({feed: images})[first])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def agreement(runtime: Runtime, samples: Labels) -> float:
    batches = samples.batches(samples.held, len(samples.held), _BATCH)
    return sum(int((runtime(images).argmax(1) == labels).sum()) for images, labels in batches) / len(samples.held)


def accuracy_controlled(source: Path, path: Path, feeds: Sequence[Mapping[str, Any]], samples: Labels) -> None:
    """NNCF with accuracy control, judged on training samples."""
    import nncf

    def judge(model: Any, _: Any) -> tuple[float, None]:
        runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        name, right, count = runtime.get_inputs()[0].name, 0, 1000
        for images, labels in samples.batches(samples.train, count, _BATCH):
            right += int((runtime.run(None, {name: images})[0].argmax(1) == labels).sum())
        return right / count, None

    dataset = nncf.Dataset(list(feeds))
    quantised = nncf.quantize_with_accuracy_control(
        onnx.load(str(source)), dataset, dataset, judge, max_drop=_DROP, subset_size=len(feeds)
    )
    onnx.save(quantised, str(path))


def rows(name: str, options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of one network."""
    made(name, options)
    backend = catalog.find_target(options.target).backend
    plain, _ = compressed(name, "float", options)
    folder, seconds = compressed(name, "ptq", options)
    graph, ours = plain / "bundle" / "model.onnx", folder / "bundle" / "model.onnx"
    samples = Labels(options.cache / f"{name}.npz")
    batches = samples.batches(samples.train, _CALIBRATED, 1)
    feeds = [{"input": images} for images, _ in batches]
    files = {"ours": (ours, seconds)}
    failed: list[Row] = []
    makers: dict[str, Callable[[Path, Path, list[Any]], None]] = {
        **RIVALS,
        "NNCF, accuracy control": partial(accuracy_controlled, samples=samples),
    }
    for rival, make in makers.items():
        if rival in options.without:
            continue
        path, begun = options.cache / f"{name}-{len(files) + len(failed)}.onnx", time.perf_counter()
        try:
            make(graph, path, feeds)
            opened(path, backend)
        except Exception as error:  # noqa: BLE001 - whatever a rival cannot do is a row of the table
            told = (str(error).strip().splitlines() or [type(error).__name__])[0][:80].replace("|", "/")
            failed.append(Row(name, rival, None, None, 0, time.perf_counter() - begun, told))
            continue
        files[rival] = (path, time.perf_counter() - begun)
    loaded = {"fp32": opened(graph, backend), **{by: opened(path, backend) for by, (path, _) in files.items()}}
    calls = {by: partial(runtime, feeds[0]["input"]) for by, runtime in loaded.items()}
    blocks = interleave(calls, TimingConfig(24, 10, seconds=3.0 * len(calls)), progress=lambda *_: None)
    for by, (path, took) in files.items():
        fast = ratio(blocks["fp32"], blocks[by], seed=0)
        note = kept(folder) if by == "ours" else ""
        yield Row(name, by, agreement(loaded[by], samples), fast, path.stat().st_size, took, note)
    yield from failed


def kept(folder: Path) -> str:
    """What our run left in float."""
    report = json.loads((folder / "report.json").read_text())
    left = next((p["metrics"].get("in_float") for p in report["passes"] if p["kind"] == "quantize"), None)
    return "" if not left else "float" if left == ["*"] else f"{len(left)} nodes in float"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traps", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=NAMES)
    parser.add_argument("--target", default="host")
    parser.add_argument("--without", nargs="+", default=(), help="rivals that take too long, by name")
    parser.add_argument("-o", "--output", type=Path, default=None)
    options = parser.parse_args()
    options.cache, options.traps = options.cache.resolve(), options.traps.resolve()
    options.cache.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.ERROR)
    lines = ["| network | by | agreement | against fp32 | bytes | made in | |", "|---|---|---|---|---|---|---|"]
    print("\n".join(lines))
    for name in options.only:
        for row in rows(name, options):
            print(row, flush=True)
            lines.append(str(row))
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
