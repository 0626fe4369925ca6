"""Ranges of activations, gathered by NNCF over calibration samples."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

# NNCF reports its use over the network unless this variable stands when it is first imported.
os.environ.setdefault("NNCF_CI", "1")

import nncf
import numpy as np
import onnx
import onnx_ir as ir
from nncf.common.factory import build_graph
from nncf.common.graph.transformations.commands import TargetType
from nncf.common.tensor_statistics import collectors
from nncf.common.tensor_statistics.statistic_point import StatisticPoint, StatisticPointsContainer
from nncf.common.tensor_statistics.statistics import MinMaxTensorStatistic
from nncf.onnx.graph.transformations.commands import ONNXTargetPoint
from nncf.onnx.statistics.aggregator import ONNXStatisticsAggregator
from numpy.typing import NDArray

from compressor.core import Progress, UsageError

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["Estimator", "Seen", "activation_ranges", "seen_ranges"]

Estimator = Literal["minmax", "mean-minmax"]
"""``minmax``: the extremes over all samples. ``mean-minmax``: the mean of each sample's extremes."""


_SAMPLED, _KEPT = 1 << 15, 1 << 20
"""Values of a tensor that are looked at, of one sample and of all: outliers are few, and make the edges of what is
drawn."""
_PARTS = (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44, 0.36)
"""Of an end of a tensor's range, what is tried."""


def activation_ranges(
    model: ir.Model,
    tensors: Sequence[str],
    batches: Sequence[Feeds],
    estimator: Estimator,
    progress: Progress,
) -> dict[str, tuple[float, float]]:
    """The (low, high) of each named tensor of ``model`` over ``batches`` of feeds.

    NNCF runs the float model on ONNX Runtime and reduces every tensor as it passes. Raises UsageError
    where a value is not finite.
    """
    logging.getLogger("nncf").setLevel(logging.ERROR)
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    wanted = set(tensors)
    collected: dict[str, collectors.TensorCollector] = {}
    points = StatisticPointsContainer()

    def watch(tensor: str, kind: TargetType, node: str, port: int) -> None:
        collected[tensor] = _collector(estimator)
        points.add_statistic_point(StatisticPoint(ONNXTargetPoint(kind, node, port), collected[tensor], "compressor"))

    for node in model.graph:
        for port, value in enumerate(node.outputs):
            if value.name in wanted:
                watch(value.name, TargetType.POST_LAYER_OPERATION, node.name or "", port)
        for port, source in enumerate(node.inputs):
            # A graph input has no producer: it is watched at its first consumer.
            if source is not None and source.is_graph_input() and source.name in wanted - collected.keys():
                watch(source.name or "", TargetType.PRE_LAYER_OPERATION, node.name or "", port)

    done = 0

    def feed(batch: Feeds) -> Feeds:
        nonlocal done
        progress("calibrate", done, len(batches))
        done += 1
        return batch

    dataset = nncf.Dataset(list(batches), feed)
    aggregator = ONNXStatisticsAggregator(dataset)
    aggregator.register_statistic_points(points)
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws a progress bar of its own
        aggregator.collect_statistics(proto, build_graph(proto))
    ranges = {}
    for tensor, collector in collected.items():
        statistics = collector.get_statistics()
        ranges[tensor] = (float(statistics.min_values.data.min()), float(statistics.max_values.data.max()))
        if not np.all(np.isfinite(ranges[tensor])):
            raise UsageError(
                f"the network's values are not finite on the calibration samples, first in {tensor}",
                hint="look at the weights and the input normalisation",
            )
    return ranges


def _collector(estimator: Estimator) -> collectors.TensorCollector:
    each_sample = estimator == "mean-minmax"
    axes = {"axes": (0,), "axes_mode": collectors.AxesMode.KEEP} if each_sample else {}
    collector = collectors.TensorCollector(MinMaxTensorStatistic)
    for stat, reducer, extreme in (
        (MinMaxTensorStatistic.MIN_STAT, collectors.MinReducer, collectors.MinAggregator),
        (MinMaxTensorStatistic.MAX_STAT, collectors.MaxReducer, collectors.MaxAggregator),
    ):
        aggregator = collectors.MeanAggregator(aggregation_axes=(0, 1)) if each_sample else extreme()
        collector.register_statistic_branch(stat, reducer(**axes), aggregator)
    return collector


@dataclass(frozen=True)
class Seen:
    """What was seen of a graph's tensors."""

    ranges: dict[str, tuple[float, float]]
    means: dict[str, NDArray[np.float64]]
    """Of the tensors that convolutions read, one a channel."""


def seen_ranges(
    model: ir.Model,
    grids: Sequence[tuple[str, ...]],
    symmetric: bool,
    batches: Sequence[Feeds],
    progress: Progress,
) -> Seen:
    """For each of ``grids`` (tensors that share one) the range whose 8-bit steps round its first tensor best.

    Least mean squared error over a sample of values, by turns at both ends (Nagel et al. 2021, arXiv 2106.08295,
    section 3.1). Images that are the graph's input keep [0, 1] whole: it is known. Raises UsageError where a value is
    not finite.
    """
    import onnxruntime

    proto = ir.to_proto(model)
    names = [grid[0] for grid in grids]
    given = {i.name for i in proto.graph.input}
    read = {node.input[0] for node in proto.graph.node if node.op_type == "Conv"}
    watched = sorted({*names, *read} - given)
    firsts = set(names)
    present = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values: dict[str, list[NDArray[np.float32]]] = {}
    sums: dict[str, NDArray[np.float64]] = {}
    samples = [each for batch in batches for each in _single_samples(batch)]  # all tensors of one are kept
    sampled = max(1, min(_SAMPLED, _KEPT // len(samples)))
    for number, sample in enumerate(samples):
        progress("calibrate", number, len(samples))
        for name, made in zip(watched, session.run(watched, dict(sample)), strict=True):
            if name in firsts:
                values.setdefault(name, []).append(made.reshape(-1)[:: max(1, made.size // sampled)])
            if name in read:
                sums[name] = sums.get(name, np.zeros(made.shape[1])) + made.mean((0, 2, 3), dtype=np.float64)
    ranges: dict[str, tuple[float, float]] = {}
    for grid in grids:
        if grid[0] in values:
            taken = np.concatenate(values[grid[0]])
            if not np.all(np.isfinite(taken)):
                raise UsageError(
                    f"the network's values are not finite on the calibration samples, first in {grid[0]}",
                    hint="look at the weights and the input normalisation",
                )
            low_high = _least_error(taken, symmetric)
        else:
            fed = [batch[grid[0]] for batch in batches]
            low_high = (min(0.0, *(float(b.min()) for b in fed)), max(1.0, *(float(b.max()) for b in fed)))
        ranges |= dict.fromkeys(grid, low_high)
    return Seen(ranges, {name: total / len(samples) for name, total in sums.items()})


def _single_samples(batch: Feeds) -> Iterator[Feeds]:
    """The samples of a batch, one by one."""
    for row in range(len(next(iter(batch.values())))):
        yield {name: array[row : row + 1] for name, array in batch.items()}


def _least_error(values: NDArray[np.float32], symmetric: bool) -> tuple[float, float]:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))

    def error(ends: tuple[float, float]) -> float:
        step = (max(-ends[0], ends[1]) / 127 if symmetric else (ends[1] - ends[0]) / 255) or 1.0
        zero = 128 if symmetric else np.rint(-ends[0] / step)
        rounded = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
        return float(np.mean((rounded - values) ** 2))

    if symmetric:
        bounds = (max(-low, high) * part for part in _PARTS)
        return min(((max(low, -bound), min(high, bound)) for bound in bounds), key=error)
    best = (low, high)
    for _ in range(2):
        best = min(((best[0], high * part) for part in _PARTS), key=error)
        if low < 0:
            best = min(((low * part, best[1]) for part in _PARTS), key=error)
    return best
