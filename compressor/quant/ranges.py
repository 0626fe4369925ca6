"""Ranges of activations, gathered by NNCF over calibration samples."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
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

from compressor.core import Progress, UsageError

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["Estimator", "activation_ranges", "widened"]

_FEW, _MISSED = 100, 0.4
"""Samples that see about all of a range, and the part of it that a single one is taken to miss."""
_BOUNDED = frozenset({"Clip", "HardSigmoid", "Sigmoid", "Softmax", "Tanh"})
"""Operators whose own ends are a range's."""

Estimator = Literal["minmax", "mean-minmax"]
"""``minmax``: the extremes over all samples. ``mean-minmax``: the mean of the samples' own extremes."""


def activation_ranges(
    model: ir.Model,
    tensors: Sequence[str],
    batches: Sequence[Feeds],
    estimator: Estimator,
    progress: Progress,
) -> dict[str, tuple[float, float]]:
    """Gather (low, high) of each named tensor of ``model`` over ``batches`` of feeds.

    NNCF runs the float model on ONNX Runtime and reduces every tensor while it runs. Raises UsageError
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

    dataset = nncf.Dataset(batches, feed)
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


def widened(model: ir.Model, ranges: Mapping[str, tuple[float, float]], samples: int) -> dict[str, tuple[float, float]]:
    """Return ranges that hold for samples not seen: of fewer than 100 ``samples`` they are wider, by up to 40 %.

    What is cut off costs far more than a coarser grid: an EfficientNet-B0 calibrated on 18 photographs had an SNR of
    11 dB on others, and of 18 dB with ranges wider by 40 %. Those of operators with ends of their own stay.
    """
    factor = 1 + _MISSED * max(0.0, 1 - samples / _FEW)
    bounded = {value.name for node in model.graph if node.op_type in _BOUNDED for value in node.outputs}
    return {
        name: (low, high) if name in bounded else (min(low, low * factor), max(high, high * factor))
        for name, (low, high) in ranges.items()
    }


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
