"""Post-training INT8 with some layers left in float, chosen by the parity of the network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from compressor.core import Json, Model, OnnxModel, Progress, QdqRules, Session, Task
from compressor.frontend import load_network
from compressor.lowering.lower import finish_quantized, lower_to_float
from compressor.lowering.placement import Placement
from compressor.lowering.save import save
from compressor.models.common.deployed import deployed
from compressor.quant.cross_layer_equalization import equalize_channels
from compressor.quant.float_layers import float_candidates
from compressor.quant.mse_ranges import TensorStatistics, least_error_ranges
from compressor.quant.psnr import psnr

__all__ = ["MixedPrecision", "MixedPrecisionResult"]

_ALLOWED_LOSS = 0.2
"""dB of parity that a group of layers may cost in INT8: each group in float costs a little time."""
_COMPARED = 8
"""Calibration batches that parity is computed on."""
_EQUALIZED_SHARE = 0.5

Batches = Sequence[Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class MixedPrecisionResult:
    """A quantised graph, the number of its quantised tensors, and metrics for the report."""

    onnx: OnnxModel
    tensors: int
    metrics: dict[str, Json]


@dataclass(frozen=True)
class MixedPrecision:
    """A search for the layers to leave in float, for networks whose output is an image in [0, 1].

    Activation ranges are those of least squared error: an outlier that is cut off costs less than coarser steps.
    Biases are corrected for the mean error of rounded weights. Channels within blocks are equalised where parity is
    better with it. Then the groups of `float_candidates` are tried in INT8 one after the other, the most costly in
    float first, starting with all of them in float, because the rounding of one group hides what another's costs.
    A group stays in INT8 where that costs `_ALLOWED_LOSS` dB of parity at most.
    """

    model: Model
    task: Task
    rules: QdqRules
    opset: int
    open_session: Callable[[Path], Session]
    """Loads an ONNX file, to compute parity with."""
    batches: Batches
    """Feeds of training images, to calibrate on."""
    bits: Callable[[torch.nn.Module], Mapping[str, int]]
    """The bits of a network's weights that have fewer than the rules'."""
    learn: Callable[[ir.Model, Mapping[str, int]], None]
    """Learns how the weights of a graph are rounded to those bits, where that is wanted."""
    workdir: Path
    progress: Progress

    def run(self) -> MixedPrecisionResult:
        """Search, and write ``model.onnx`` and the graph it is made from, ``float.onnx``, into ``workdir``."""
        self.progress("calibrate", 0, 1)
        plain = self._calibrate(0.0)
        made_from = save(plain.graph, self.workdir / "float.onnx", "fp32")
        expected = self._images(self.open_session(made_from.path))
        candidates = float_candidates(plain.graph)
        best, used, share = self._parity(plain, candidates.values(), expected), plain, 0.0
        equalized = self._calibrate(_EQUALIZED_SHARE) if self.model.source is not None else plain
        if equalized.blocks and (db := self._parity(equalized, candidates.values(), expected)) > best:
            best, used, share = db, equalized, _EQUALIZED_SHARE
            made_from = save(used.graph, self.workdir / "float.onnx", "fp32")
        kept, parities = self._choose(used, candidates, expected, best)
        graph = used.place(self.rules, _union(candidates[name] for name in kept))
        path = self.workdir / "model.onnx"
        onnx, packed = finish_quantized(graph, self.rules, path, made_from, packable=bool(used.bits))
        metrics: dict[str, Json] = {
            "parity_db": parities.pop("kept"),
            "in_float": list(kept),
            "parity_db_without": parities,
            "equalised": share,
            **({"bits": dict(used.bits), "packed": packed} if used.bits else {}),
        }
        return MixedPrecisionResult(onnx, len(used.statistics.ranges), metrics)

    def _choose(
        self,
        calibrated: _Calibrated,
        candidates: Mapping[str, frozenset[str]],
        expected: Sequence[NDArray[np.float32]],
        best: float,
    ) -> tuple[tuple[str, ...], dict[str, float]]:
        """Choose the groups that stay in float.

        ``best`` is the parity with all of them in float. Returns their names, and parities in dB: ``kept`` with
        those, ``any`` with none, and by each group's name the parity when it was tried in INT8.
        """
        kept = tuple(candidates)
        parities = {"any": self._parity(calibrated, (), expected), "kept": best}
        for number, name in enumerate(reversed(kept)):
            self.progress("what to leave in float", number, len(candidates))
            fewer = tuple(each for each in kept if each != name)
            parities[name] = self._parity(calibrated, (candidates[each] for each in fewer), expected)
            if parities[name] >= best - _ALLOWED_LOSS:
                kept, best = fewer, max(best, parities[name])
                parities["kept"] = parities[name]
        return kept, parities

    def _calibrate(self, share: float) -> _Calibrated:
        """Make the float graph, its channels equalised by ``share``, and gather what its quantisers need."""
        blocks, bits, network = 0, dict[str, int](), None
        if self.model.source is not None:
            network = deployed(load_network(self.model))
            name = self.model.signature.input.name
            if share:
                images = (torch.from_numpy(batch[name]) for batch in self.batches[:_COMPARED])
                blocks = equalize_channels(network, images, share)
            bits = dict(self.bits(network))
        graph = lower_to_float(self.model, self.task, self.opset, network)
        self.learn(graph, bits)
        groups = Placement(ir.from_proto(ir.to_proto(graph)), self.rules).groups
        symmetric = self.rules.symmetric_activations
        statistics = least_error_ranges(graph, groups, symmetric, self.batches, self.progress)
        return _Calibrated(graph, bits, statistics, blocks)

    def _parity(
        self,
        calibrated: _Calibrated,
        floats: Iterable[frozenset[str]],
        expected: Sequence[NDArray[np.float32]],
    ) -> float:
        """The PSNR in dB against the float graph's output, with the groups of nodes ``floats`` left in float."""
        path = self.workdir / "trial.onnx"
        graph = calibrated.place(self.rules, _union(floats))
        finish_quantized(graph, self.rules, path, None, packable=bool(calibrated.bits))
        try:
            return psnr(expected, self._images(self.open_session(path)))
        finally:
            path.unlink()

    def _images(self, session: Session) -> list[NDArray[np.float32]]:
        name = session.signature.output.name
        return [session(batch)[name] for batch in self.batches[:_COMPARED]]


@dataclass(frozen=True)
class _Calibrated:
    """A float graph, and all that its quantisation needs."""

    graph: ir.Model
    bits: Mapping[str, int]
    statistics: TensorStatistics
    blocks: int
    """How many blocks were equalised."""

    def place(self, rules: QdqRules, floats: frozenset[str]) -> ir.Model:
        """A copy of the graph with its quantisers, the nodes ``floats`` in float."""
        graph: ir.Model = ir.from_proto(ir.to_proto(self.graph))
        Placement(graph, rules, floats).apply(self.statistics.ranges, self.bits, means=self.statistics.means)
        return graph


def _union(groups: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*groups)
