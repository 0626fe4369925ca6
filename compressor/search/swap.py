"""A network with another head beside the one it has: what the change costs and brings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import onnx_ir as ir

from compressor.bench.machine import fits, machine
from compressor.core import Context, Json, Model, TorchSource, UsageError, image_signature
from compressor.lowering.export import export
from compressor.lowering.save import file_bytes
from compressor.frontend import load_network, save_weights
from compressor.models.common.family import Architecture
from compressor.models.common.head import ImdnHead
from compressor.models.common.headed import Headed, architecture, settings
from compressor.models.common.layers import count
from compressor.scores.common.probe import untrained
from compressor.search.deployed import quantised
from compressor.search.latency import YARDSTICK, LatencyTable
from compressor.search.successive_halving import trials
from compressor.train.inherit import inherit

__all__ = ["Swapped", "swap"]


@dataclass(frozen=True)
class Swapped:
    """The network with its new head, and what was seen."""

    student: Model
    metrics: dict[str, Json]
    warnings: tuple[str, ...]
    pinned: dict[str, Json]


def swap(
    head: ImdnHead | None,
    precision: str,
    minutes: float,
    steps: Sequence[int],
    teacher: Model,
    result: Model,
    context: Context,
) -> Swapped:
    """``result`` with ``head`` (None: its family's own), its body's weights kept, the head's at random.

    Both networks are timed whole and interleaved, in the form in which ``precision`` deploys them, and, where
    ``minutes`` are given, distilled side by side as `trials` does it. Raises UsageError where the network is of
    no known family, or has that head already.
    """
    if ":" in result.family:
        raise UsageError(
            f"the body of {result.family} is not told from its head", hint="put a search pass before it in the profile"
        )
    before = architecture(result.family, result.torch.settings)
    body = before.backbone if isinstance(before, Headed) else before
    after: Architecture = body if head is None else Headed(body, head)
    if after == before:
        raise UsageError("the network has that head already", hint="set head.width, head.blocks or head.attention")
    costs = [count(each, result.input) for each in (before, after)]
    table = LatencyTable(context.target, precision, context.workdir, context.memo)
    graphs: dict[str, ir.Model] = {}
    for number, each in enumerate((before, after)):
        context.progress("time both heads", number, 2)
        exported = export(untrained(each, context.seed).eval(), *image_signature(result.input), context.target.opset)
        graphs[_name(each)] = quantised(exported, context.target) if precision == "int8" else exported
    taken = table.together({name: partial(graphs.__getitem__, name) for name in graphs})
    times = [taken[name] * taken[YARDSTICK] for name in graphs]
    sizes = [file_bytes(graph) for graph in graphs.values()]
    metrics: dict[str, Json] = {
        "student": _name(after),
        "params_before": costs[0].params,
        "params": costs[1].params,
        "macs_before": costs[0].macs,
        "macs": costs[1].macs,
        "bytes_before": sizes[0],
        "bytes": sizes[1],
        "ms_before": times[0],
        "ms": times[1],
        "timed_as": precision,
    }
    pinned: dict[str, Json] = {}
    if minutes:
        trial = trials([before, after], minutes, steps, teacher, context)
        reached = trial.told["rounds"][-1]["top1"]
        metrics |= {
            "top1_before": reached[_name(before)],
            "top1": reached[_name(after)],
            "trial_steps": trial.steps[-1],
            "trial_minutes": minutes,
            "judged_on": trial.told["judged_on"],
        }
        pinned = {"trial_steps": list(trial.steps)}
    network = untrained(after, context.seed)
    inherit(network, load_network(result))
    weights = context.workdir / "headed.safetensors"
    student = replace(
        result,
        source=TorchSource(result.family, settings(after), weights),
        sha256=save_weights(network.state_dict(), weights),
        params=costs[1].params,
        macs=costs[1].macs,
    )
    stranger = fits(context.target, machine())
    warnings = (f"latencies of heads are estimated, as this machine's: {stranger}",) if stranger else ()
    return Swapped(student, metrics, warnings, pinned)


def _name(each: Architecture) -> str:
    return json.dumps(each.encode())
