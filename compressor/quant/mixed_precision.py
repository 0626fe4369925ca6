"""INT8 for networks that make images: every decibel shows, so what to leave in float is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from compressor.core import Backend, Json, Model, OnnxModel, Progress, QdqRules, Session, Task
from compressor.frontend import load_network
from compressor.lowering.lower import lower_to_float
from compressor.lowering.save import save
from compressor.quant.equalise import equalise
from compressor.lowering.fp16 import convert_to_fp16
from compressor.lowering.packing import pack
from compressor.lowering.placement import Placement
from compressor.quant.ranges import Seen, seen_ranges

__all__ = ["Restored", "attention", "decibels", "parts", "restored"]

_WORTH = 0.2
"""Decibels of parity that may be lost in all by what need not be left in float: each part of it costs a little time."""
_JUDGED = 8
"""Calibration images that parity is judged on."""
_TRIAL = "trial.onnx"

Batches = Sequence[Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Restored:
    """A quantised graph, and how it came about."""

    onnx: OnnxModel
    tensors: int
    metrics: dict[str, Json]


def restored(
    model: Model,
    task: Task,
    rules: QdqRules,
    backend: Backend,
    opset: int,
    batches: Batches,
    bits: Callable[[torch.nn.Module], Mapping[str, int]],
    workdir: Path,
    progress: Progress,
    *,
    exact: bool = False,
) -> Restored:
    """Quantise ``model`` by post-training means alone; ``batches`` are feeds of training images.

    Ranges are those of least squared error (an outlier that is cut off costs less than a coarser grid); biases make
    up for what rounding weights adds on average; channels within blocks are equalised where parity is the better
    for it. Of the network's `parts` only those are left in float, the dearest asked first, without which the integer
    output is not as near to the float one, but for `_WORTH` dB, on the target's own kernels (``exact``: in floats):
    from all of them downwards, as one part's rounding hides what another's costs.
    """

    name = model.signature.input.name

    def prepared(share: float) -> _Prepared:
        network = load_network(model)
        images = (torch.from_numpy(batch[name]) for batch in batches[:_JUDGED])
        blocks = equalise(network, images, share) if share else 0
        full = lower_to_float(model, task, opset, network)
        levels = bits(network)
        placement = Placement(ir.from_proto(ir.to_proto(full)), rules)
        seen = seen_ranges(full, placement.groups, rules.symmetric_activations, batches, progress)
        return _Prepared(full, levels, seen, blocks)

    def images_of(session: Session) -> list[NDArray[np.float32]]:
        return [next(iter(session(batch).values())) for batch in batches[:_JUDGED]]

    def parity(made: _Prepared, floats: frozenset[str]) -> float:
        save(made.placed(rules, floats)[0], workdir / _TRIAL, "int8")
        session = backend.open(workdir / _TRIAL, threads=1, exact=exact)
        return decibels(wanted, images_of(session))

    progress("calibrate", 0, 1)
    plain = prepared(0.0)
    first = save(plain.exact, workdir / "float.onnx", "fp32")
    session = backend.open(first.path, threads=1, exact=exact)
    wanted = images_of(session)
    found = parts(plain.exact)
    kept = list(found)

    def nodes(names: Iterable[str]) -> frozenset[str]:
        return frozenset().union(*(found[name] for name in names))

    best, made, share = parity(plain, nodes(kept)), plain, 0.0
    equalised = prepared(0.5)
    if equalised.blocks and (dB := parity(equalised, nodes(kept))) > best:  # noqa: N806 - the unit's own spelling
        best, made, share = dB, equalised, 0.5
        first = save(made.exact, workdir / "float.onnx", "fp32")
    without = {"any": parity(made, frozenset())}
    parity_db = best
    for number, name in enumerate(reversed(found)):
        progress("what to leave in float", number, len(found))
        fewer = [each for each in kept if each != name]
        without[name] = parity(made, nodes(fewer))
        if without[name] >= best - _WORTH:
            kept, parity_db, best = fewer, without[name], max(best, without[name])
    floats = nodes(kept)
    (workdir / _TRIAL).unlink()
    graph, packed = made.placed(rules, floats)
    metrics: dict[str, Json] = {
        "parity_db": parity_db,
        "in_float": kept,
        "parity_db_without": without,
        "equalised": share,
        **({"bits": dict(made.bits), "packed": packed} if made.bits else {}),
    }
    return Restored(save(graph, workdir / "model.onnx", "int8", first), len(made.seen.ranges), metrics)


@dataclass(frozen=True)
class _Prepared:
    exact: ir.Model
    bits: Mapping[str, int]
    seen: Seen
    blocks: int

    def placed(self, rules: QdqRules, floats: frozenset[str]) -> tuple[ir.Model, Json]:
        """The graph as it is deployed, and what `pack` says of it."""
        graph = ir.from_proto(ir.to_proto(self.exact))
        Placement(graph, rules, floats).apply(self.seen.ranges, self.bits, means=self.seen.means)
        packed: Json = pack(graph) if rules.folds_packed_weights and self.bits else {}
        if rules.float_dtype == "float16":
            convert_to_fp16(graph)
        return graph, packed


def decibels(wanted: Sequence[NDArray[np.float32]], got: Sequence[NDArray[np.float32]]) -> float:
    """Peak signal-to-noise of images in [0, 1], over all of them together; at most 200."""
    error = float(np.mean([np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(wanted, got, strict=True)]))
    return min(200.0, -10 * float(np.log10(max(error, 1e-20))))


def attention(model: ir.Model) -> frozenset[str]:
    """The nodes from a mean over an image to what scales the image by it, without that: few values, of wide ranges."""
    within: set[ir.Node] = set()
    for node in model.graph:
        inputs = [v for v in node.inputs if v is not None and ir.convenience.get_const_tensor(v) is None]
        told = [v for v in inputs if v.producer() in within]
        scales = node.op_type == "Mul" and len(told) < len(inputs)
        if node.op_type in ("GlobalAveragePool", "ReduceMean") or (told and not scales):
            within.add(node)
    return frozenset(node.name or "" for node in within)


def parts(model: ir.Model) -> dict[str, frozenset[str]]:
    """What may be left in float, by name, the nodes of each, cheap ones first; what a network has not is not there.

    ``attention``; ``scaling`` by it; ``last``, the convolution to sub-pixels, and ``first``; ``residual``, all
    sums; ``join``, the convolution of all blocks' outputs; ``skip``, the one before the long sum.
    """
    graph = model.graph
    weighing = attention(model)

    def made_by(value: ir.Value | None, *ops: str) -> ir.Node | None:
        node = value.producer() if value is not None else None
        return node if node is not None and node.op_type in ops else None

    convs = [node for node in graph if node.op_type == "Conv" and node.name not in weighing]
    sums = [node for node in graph if node.op_type == "Add" and node.name not in weighing]
    last = [c for c in convs if any(u.node.op_type in ("DepthToSpace", "Clip") for u in c.outputs[0].uses())]
    first = [c for c in convs if c.inputs[0] is not None and c.inputs[0].is_graph_input()]
    long = [s for c in last if (s := made_by(c.inputs[0], "Add")) is not None]
    skip = [c for s in long for v in s.inputs if (c := made_by(v, "Conv")) is not None and c not in first]
    joins = [(j, c) for c in convs if (j := made_by(c.inputs[0], "Concat")) is not None
             and all(made_by(v, "Add") is not None for v in j.inputs)]  # fmt: skip
    scaling = [n for n in graph if n.op_type == "Mul" and n.name not in weighing
               and any((p := v.producer()) is not None and p.name in weighing for v in n.inputs if v)]  # fmt: skip
    named: dict[str, Sequence[Any]] = {
        "scaling": scaling,
        "last": last,
        "first": first,
        "residual": sums,
        "join": [node for pair in joins for node in pair],
        "skip": [*skip, *long],
    }
    found = {"attention": weighing} | {k: frozenset(n.name or "" for n in nodes) for k, nodes in named.items()}
    return {name: nodes for name, nodes in found.items() if nodes}
