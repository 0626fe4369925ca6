"""Activation ranges of least squared error, and means for the correction of biases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.core import Progress, UsageError

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["TensorStatistics", "least_error_ranges"]

_OF_SAMPLE, _OF_TENSOR = 1 << 15, 1 << 20
"""The most values of a tensor that are kept of one sample, and of all samples."""
_FRACTIONS = (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44, 0.36)
"""Fractions of a tensor's extreme value that are tried as the end of its range."""
_BINS = 1 << 13
"""Bins of the histogram on which rounding errors are computed: ten or more to a step of any grid that is tried."""


@dataclass(frozen=True)
class TensorStatistics:
    """Ranges and means of a graph's tensors, by name."""

    ranges: dict[str, tuple[float, float]]
    means: dict[str, NDArray[np.float64]]
    """The mean of each channel of the tensors that convolutions read."""


def least_error_ranges(
    model: ir.Model,
    groups: Sequence[tuple[str, ...]],
    symmetric: bool,
    batches: Sequence[Feeds],
    progress: Progress,
) -> TensorStatistics:
    """Find, for each of ``groups``, the range with which 8 bits round its first tensor with the least squared error.

    Both ends are searched in turns over a sample of the tensor's values (Nagel et al. 2021, arXiv 2106.08295,
    section 3.1). All tensors of a group get that range. An input of the graph keeps [0, 1] at least. Raises
    UsageError where a value is not finite.
    """
    values, means = _run_graph(model, [group[0] for group in groups], batches, progress)
    ranges: dict[str, tuple[float, float]] = {}
    for group in groups:
        first = group[0]
        if first in values:
            taken = np.concatenate(values[first])
            if not np.all(np.isfinite(taken)):
                raise UsageError(
                    f"the network's values are not finite on the calibration samples, first in {first}",
                    hint="look at the weights and the input normalisation",
                )
            low_high = _search_range(taken, symmetric)
        else:
            fed = [batch[first] for batch in batches]
            low_high = (min(0.0, *(float(b.min()) for b in fed)), max(1.0, *(float(b.max()) for b in fed)))
        ranges |= dict.fromkeys(group, low_high)
    return TensorStatistics(ranges, means)


def _run_graph(
    model: ir.Model, names: Sequence[str], batches: Sequence[Feeds], progress: Progress
) -> tuple[dict[str, list[NDArray[np.float32]]], dict[str, NDArray[np.float64]]]:
    """Run the graph sample by sample: values of the tensors ``names``, and channel means of convolutions' inputs."""
    import onnxruntime

    proto = ir.to_proto(model)
    inputs = {i.name for i in proto.graph.input}
    read = {node.input[0] for node in proto.graph.node if node.op_type == "Conv"}
    watched = sorted({*names, *read} - inputs)
    if not watched:
        return {}, {}
    present = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so nothing needs to be printed
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values: dict[str, list[NDArray[np.float32]]] = {}
    sums: dict[str, NDArray[np.float64]] = {}
    runs = [each for batch in batches for each in _single_samples(batch, proto)]  # all tensors of a run are in memory
    kept = max(1, min(_OF_SAMPLE, _OF_TENSOR // len(runs)))
    wanted = set(names)
    for number, feeds in enumerate(runs):
        progress("calibrate", number, len(runs))
        for name, made in zip(watched, session.run(watched, dict(feeds)), strict=True):
            if name in wanted:
                values.setdefault(name, []).append(made.reshape(-1)[:: max(1, made.size // kept)])
            if name in read:
                axes = tuple(axis for axis in range(made.ndim) if axis != 1)
                sums[name] = sums.get(name, np.zeros(made.shape[1])) + made.mean(axes, dtype=np.float64)
    return values, {name: total / len(runs) for name, total in sums.items()}


def _single_samples(batch: Feeds, model: onnx.ModelProto) -> Iterator[Feeds]:
    """Yield the samples of a batch one by one; the whole batch where the graph's batch is fixed."""
    if any(i.type.tensor_type.shape.dim and i.type.tensor_type.shape.dim[0].dim_value > 1 for i in model.graph.input):
        yield batch
        return
    for row in range(len(next(iter(batch.values())))):
        yield {name: array[row : row + 1] for name, array in batch.items()}


def _search_range(values: NDArray[np.float32], symmetric: bool) -> tuple[float, float]:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    means, counts = _histogram(values, low, high)

    def error(ends: tuple[float, float]) -> float:
        step = (max(-ends[0], ends[1]) / 127 if symmetric else (ends[1] - ends[0]) / 255) or 1.0
        zero = 128 if symmetric else np.rint(-ends[0] / step)
        rounded = (np.clip(np.rint(means / step) + zero, 0, 255) - zero) * step
        return float(np.sum(counts * (rounded - means) ** 2))

    if symmetric:
        bounds = (max(-low, high) * fraction for fraction in _FRACTIONS)
        return min(((max(low, -bound), min(high, bound)) for bound in bounds), key=error)
    best = (low, high)
    for _ in range(2):
        best = min(((best[0], high * fraction) for fraction in _FRACTIONS), key=error)
        if low < 0:
            best = min(((low * fraction, best[1]) for fraction in _FRACTIONS), key=error)
    return best


def _histogram(values: NDArray[np.float32], low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of the values in each bin that has any, and how many there are."""
    bins = np.minimum((values - low) * (_BINS / ((high - low) or 1.0)), _BINS - 1).astype(np.int64)
    counts = np.bincount(bins, minlength=_BINS).astype(np.float64)
    held = counts > 0
    return np.bincount(bins, values, _BINS)[held] / counts[held], counts[held]
