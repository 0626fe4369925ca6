"""Corrections of a float graph before it is quantised, which cost nothing when it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from compressor.core import OnnxModel, Progress, QdqRules, UsageError
from compressor.lowering.placement import Placement
from compressor.lowering.save import save
from compressor.quant.channel_scaling import ChannelScaling
from compressor.quant.learned_rounding import LearnedRounding
from compressor.quant.mse_ranges import least_error_ranges
from compressor.quant.ranges import widened
from compressor.quant.smoothing import Smoothing

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["Base", "corrected", "named", "with_learned_rounding"]

_SHARES = (0.5, 1.0)
"""Parts of the distance between channels' ranges that are taken off."""
_SAMPLES, _BYTES = 160, 1 << 27
"""Calibration samples that corrections are made from, and the most bytes that they hold."""
_LEARNED = re.compile(r"(?:(?P<before>.*), )?rounding of (?P<layers>\d+) layers learned")


@dataclass(frozen=True)
class Base:
    """A float graph with what its quantisers need."""

    name: str
    """What was corrected, for people."""
    source: OnnxModel
    ranges: Mapping[str, tuple[float, float]]
    means: Mapping[str, NDArray[np.float64]] | None = None
    """The mean of each channel of tensors that convolutions read, by which their biases are corrected."""


def corrected(
    source: OnnxModel, rules: QdqRules, batches: Sequence[Feeds], workdir: Path, progress: Progress
) -> Iterator[Base]:
    """Yield the corrections of a float32 graph, one after another; each is made when it is asked for.

    First ranges of least squared error with biases corrected for rounded weights, then the same on graphs whose
    channels are scaled to like ranges (`ChannelScaling`, `Smoothing`).
    """
    part = _some(batches)
    yield _calibrated("ranges of least error, biases corrected", source, rules, part, progress)
    largest: dict[str, NDArray[np.float64]] | None = None
    for share in _SHARES:
        graph = ir.load(source.path)
        common.ShapeInferencePass()(graph)
        scaling, smoothing = ChannelScaling(graph), Smoothing(graph)
        if not (scaling.tensors or smoothing.tensors):
            return
        if largest is None:
            axes = dict.fromkeys(scaling.tensors, 1) | dict.fromkeys(smoothing.tensors, -1)
            largest = _largest(onnx.load(str(source.path)), axes, part)
        scaling.scale(largest, share)
        smoothing.scale(largest, share)
        scaled = save(graph, workdir / f"scaled{share:g}.onnx", "fp32", source)
        yield _calibrated(f"channels scaled to like ranges ({share:g})", scaled, rules, part, progress)


def with_learned_rounding(
    base: Base,
    rules: QdqRules,
    batches: Sequence[Feeds],
    minutes: float,
    workdir: Path,
    progress: Progress,
    layers: int | None = None,
) -> Base | None:
    """Learn the rounding of the weights of ``base`` for about ``minutes`` (of ``layers`` layers, where it is said).

    Returns None where no layer was learned. The name says how many were, so that `named` makes the same again.
    """
    graph, part = ir.load(base.source.path), _some(batches)
    learned = LearnedRounding(graph, rules, {}, part, minutes, progress, layers).run()
    if not learned:
        return None
    source = save(graph, workdir / "learned.onnx", "fp32", base.source)
    before = f"{base.name}, " if base.means is not None else ""
    return _calibrated(f"{before}rounding of {learned} layers learned", source, rules, part, progress)


def named(name: str, plain: Base, rules: QdqRules, batches: Sequence[Feeds], workdir: Path, progress: Progress) -> Base:
    """Make the correction of that name again. Raises UsageError where there is none."""
    found = _LEARNED.fullmatch(name)
    wanted = found["before"] if found else name
    bases = corrected(plain.source, rules, batches, workdir, progress)
    base = plain if wanted is None else next((each for each in bases if each.name == wanted), None)
    if base is not None and found:
        base = with_learned_rounding(base, rules, batches, inf, workdir, progress, int(found["layers"]))
    if base is None:
        raise UsageError(f"quantize.correction: there is none called {name}", hint="leave it out: the run finds one")
    return base


def _some(batches: Sequence[Feeds]) -> list[Feeds]:
    """The first batches: about `_SAMPLES` samples, fewer of large ones."""
    held = sum(np.asarray(array).nbytes for array in batches[0].values())
    return list(batches[: max(1, min(_SAMPLES // _size(batches[0]), _BYTES // max(1, held)))])


def _size(batch: Feeds) -> int:
    first = next(iter(batch.values()))
    return max(1, len(first)) if np.ndim(first) else 1


def _calibrated(name: str, source: OnnxModel, rules: QdqRules, batches: Sequence[Feeds], progress: Progress) -> Base:
    graph = ir.load(source.path)
    groups = Placement(ir.load(source.path), rules).groups
    found = least_error_ranges(graph, groups, rules.symmetric_activations, batches, progress)
    return Base(name, source, widened(graph, found.ranges, sum(map(_size, batches))), found.means)


def _largest(
    model: onnx.ModelProto, channels: Mapping[str, int], batches: Sequence[Feeds]
) -> dict[str, NDArray[np.float64]]:
    """The largest magnitude of each channel of tensors over ``batches``; ``channels`` are their axes."""
    import onnxruntime

    held = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in channels if name not in held)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so nothing needs to be printed
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, NDArray[np.float64]] = {}
    for feeds in batches:
        values: list[NDArray[Any]] = session.run(list(channels), dict(feeds))
        for name, value in zip(channels, values, strict=True):
            axes = tuple(axis for axis in range(value.ndim) if axis != channels[name] % value.ndim)
            seen = np.abs(value).max(axis=axes).astype(np.float64)
            found[name] = np.maximum(found.get(name, seen), seen)
    return found
