"""Another head on a network: the network with it, and what it costs and gains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compressor.core import Context, Json, Model, TorchSource, UsageError
from compressor.frontend import load_network, save_weights
from compressor.lowering.save import file_bytes
from compressor.machine import machine, target_mismatch
from compressor.models.common.family import Architecture
from compressor.models.common.head import ImdnHead
from compressor.models.common.headed import Headed, architecture, label, settings
from compressor.models.common.layers import count
from compressor.scores.common.probe import untrained
from compressor.search.deployed import deployed_graph
from compressor.search.latency import REFERENCE_OP, LatencyTable
from compressor.search.successive_halving import successive_halving
from compressor.train.inherit import inherit

__all__ = ["Swapped", "swap"]


@dataclass(frozen=True)
class Swapped:
    """The network with its new head, and what the report tells of it."""

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
    """Put ``head`` on ``result`` (None: the head of its family). Its backbone keeps its weights, the head's are random.

    Both networks are timed whole, in turns, in the form in which ``precision`` deploys them. With ``minutes`` both are
    distilled as `successive_halving` does it. Raises UsageError where the network is of no known family, or has
    that head already.
    """
    before, after = _both(result.torch, head)
    metrics = _costs(before, after, precision, result, context)
    pinned: dict[str, Json] = {}
    if minutes:
        halving = successive_halving([before, after], minutes, steps, teacher, context)
        top1 = halving.report["rounds"][-1]["top1"]
        metrics |= {
            "top1_before": top1[label(before)],
            "top1": top1[label(after)],
            "halving_steps": halving.steps[-1],
            "halving_minutes": minutes,
            "judged_on": halving.report["judged_on"],
        }
        pinned = {"halving_steps": list(halving.steps)}
    mismatch = target_mismatch(context.target, machine())
    warnings = (f"latencies of heads are estimated, as this machine's: {mismatch}",) if mismatch else ()
    return Swapped(_student(after, result, context), metrics, warnings, pinned)


def _both(source: TorchSource, head: ImdnHead | None) -> tuple[Architecture, Architecture]:
    """Return the architecture as it is, and with the new head."""
    if ":" in source.family:
        raise UsageError(
            f"it is not known which part of {source.family} is its head",
            hint="put a search pass before it in the profile",
        )
    before = architecture(source.family, source.settings)
    backbone = before.backbone if isinstance(before, Headed) else before
    after: Architecture = backbone if head is None else Headed(backbone, head)
    if after == before:
        raise UsageError("the network has that head already", hint="set head.width, head.blocks or head.attention")
    return before, after


def _costs(
    before: Architecture, after: Architecture, precision: str, result: Model, context: Context
) -> dict[str, Json]:
    """Return the parameters, MACs, bytes and milliseconds of both networks for the report."""
    costs = [count(each, result.input) for each in (before, after)]
    table = LatencyTable(context.target, precision, context.workdir, context.memo)
    graphs = {}
    for number, each in enumerate((before, after)):
        context.progress("time both heads", number, 2)
        graphs[label(each)] = deployed_graph(each, result.input, context.target, precision, context.seed)
    taken = table.time_networks(graphs)
    times = [taken[name] * taken[REFERENCE_OP] for name in graphs]
    sizes = [file_bytes(graph) for graph in graphs.values()]
    return {
        "student": json.dumps(after.encode()),
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


def _student(after: Architecture, result: Model, context: Context) -> Model:
    """Write the weights of the network with its new head: the backbone's from ``result``, the head's at random."""
    network = untrained(after, context.seed)
    inherit(network, load_network(result))
    weights = context.workdir / "headed.safetensors"
    sha256, cost = save_weights(network.state_dict(), weights), count(after, result.input)
    source = TorchSource(result.torch.family, settings(after), weights)
    return replace(result, source=source, sha256=sha256, params=cost.params, macs=cost.macs)
