"""ONNX Runtime's and NNCF's own quantisers on the fp32 graph of a run, with the samples that the run had."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["NNCF_CI"] = "1"  # no telemetry

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from compressor.bench.statistics import ratio
from compressor.bench.timing import TimingConfig, interleave
from compressor.bundle import Manifest
from compressor.core import Data
from compressor.data import FeedSource, load_data
from compressor.figures import format_metric
from compressor.tasks.generic import Generic

__all__ = ["rival_rows"]

_SAMPLES = 100
Feeds = Mapping[str, NDArray[Any]]


class _Session:
    """Satisfies `compressor.core.Session`, for the task's own judging."""

    def __init__(self, path: Path, signature: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.runtime = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names, self.signature = [o.name for o in self.runtime.get_outputs()], signature

    def __call__(self, feeds: Feeds) -> dict[str, Any]:
        return dict(zip(self.names, self.runtime.run(self.names, dict(feeds)), strict=True))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self.rest = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self.rest, None)


def _data(source: str, manifest: Manifest, session: _Session) -> Data:
    found = load_data(source)
    if isinstance(found, FeedSource):
        return found.prepare_feeds(manifest.signature, session)
    from compressor.core import InputSpec

    assert manifest.normalization is not None
    _, *shape = manifest.signature.input.sized(manifest.sizes)
    return Generic().prepare(found, InputSpec(*shape), manifest.normalization, manifest.signature.input.name)


def _onnxruntime(kind: QuantType, per_channel: bool) -> Callable[[Path, Path, Sequence[Feeds]], None]:
    def make(source: Path, path: Path, feeds: Sequence[Feeds]) -> None:
        prepared = path.with_suffix(".prepared.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(path), _Reader(feeds), activation_type=kind, weight_type=QuantType.QInt8,
            per_channel=per_channel,
        )  # fmt: skip

    return make


def _nncf(source: Path, path: Path, feeds: Sequence[Feeds]) -> None:
    import nncf

    made = nncf.quantize(onnx.load(str(source)), nncf.Dataset(list(feeds)), subset_size=len(feeds))
    onnx.save(made, str(path))


RIVALS: Mapping[str, Callable[[Path, Path, Sequence[Feeds]], None]] = {
    "ONNX Runtime U8S8 per channel": _onnxruntime(QuantType.QUInt8, True),
    "ONNX Runtime S8S8": _onnxruntime(QuantType.QInt8, False),
    "NNCF": _nncf,
}


def rival_rows(name: str, folder: Path, source: str | None) -> Iterator[str]:
    """Yield a row of the table for each rival: the SNR of its worst output, and its speed against the fp32 graph."""
    if source is None:
        return
    logging.disable(logging.ERROR)
    manifest = Manifest.read(folder / "bundle")
    graph = next(folder.parent.glob(f"{folder.name.removesuffix('-ptq')}-float/bundle/model.onnx"))
    session = _Session(graph, manifest.signature)
    data = _data(source, manifest, session)
    assert data.train is not None
    rows = np.random.default_rng(0).permutation(len(data.train))[:_SAMPLES]
    feeds = [batch.feeds for batch in data.train.batches(manifest.signature.samples or 1, np.sort(rows))]
    with TemporaryDirectory() as work:
        for rival, make in RIVALS.items():
            path = Path(work) / "rival.onnx"
            try:
                make(graph, path, feeds[:_SAMPLES])
                made = _Session(path, manifest.signature)
                metric, _ = Generic().evaluate(made, data.evaluate, 8, lambda *_: None, session)
            except Exception as error:  # noqa: BLE001 - whatever a rival cannot do is a row of the table
                told = (str(error).strip().splitlines() or [type(error).__name__])[0][:80].replace("|", "/")
                yield f"| {name} | host | {rival} | fails | {told} | | |"
                continue
            models = {"fp32": session, rival: made}
            blocks = interleave(
                {n: partial(m, feeds[0]) for n, m in models.items()}, TimingConfig(15, 10, seconds=5.0),
                progress=lambda *_: None,
            )  # fmt: skip
            fast, _ = ratio(blocks["fp32"], blocks[rival], seed=0)
            told = format_metric({"value": metric.value, "unit": metric.unit})
            yield f"| {name} | host | {rival} | 0 | {told} | {fast:.2f}x | |"
