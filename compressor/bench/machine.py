"""The machine that a latency was taken on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.bench import probe
from compressor.core import Json, Target

__all__ = ["Machine", "fingerprint", "machine", "machine_of"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What of a machine decides a latency. A report keeps it as ``environment``."""

    arch: str
    """``x86_64``, ``aarch64``."""
    board: str | None
    """What a single-board computer calls itself in its device tree."""
    cpu: str
    features: tuple[str, ...]
    """The CPU's features as /proc/cpuinfo spells them, sorted; empty where it cannot be read."""
    cores: int
    """Those that this process may use."""
    memory_mb: int
    governor: str | None
    """Of the cores' frequency governors the first by name; None where there is none (most virtual machines)."""
    load: tuple[float, float, float]
    """Load average over 1, 5 and 15 minutes."""
    system: str
    python: str
    gpu: str | None = None
    """The first NVIDIA GPU, as its driver calls it."""


def machine(root: Path = Path("/")) -> Machine:
    """This machine as it is now. ``root`` is where /proc and /sys are found."""
    return machine_of(probe.facts(root), probe.state(root))


def machine_of(facts: Mapping[str, Json], state: Mapping[str, Json]) -> Machine:
    """Return the machine of `compressor.bench.probe`'s facts and state, taken here or on a board."""
    one, five, fifteen = state["load"]
    return Machine(
        arch=facts["arch"],
        board=facts["board"],
        cpu=facts["cpu"],
        features=tuple(facts["features"]),
        cores=facts["cores"],
        memory_mb=facts["memory_mb"],
        governor=next(iter(state["governors"]), None),
        load=(one, five, fifteen),
        system=facts["system"],
        python=facts["python"],
        gpu=facts["gpu"],
    )


def fingerprint(facts: Mapping[str, Json], state: Mapping[str, Json]) -> str:
    """One device in one configuration: what was measured under it may be compared."""
    kept = {name: value for name, value in facts.items() if name != "python"}
    lasting = {name: state[name] for name in ("power_mode", "governors", "limits_mhz", "gpu_limits_mhz", "driver")}
    return hashlib.sha256(json.dumps([kept, lasting], sort_keys=True).encode()).hexdigest()


def fits(target: Target, machine: Machine) -> str | None:
    """None where a latency taken on ``machine`` is one measured on ``target``, else why it is not.

    Every one of ``requires`` must be there; ``avx512_vnni|avx_vnni`` is met by either, and
    ``!avx_vnni`` by its absence. A target that builds on its device is that device alone: its title must stand in
    the name that the board gives itself.
    """
    if target.arch not in ("any", machine.arch):
        return f"{target.title} is {target.arch}, and this machine is {machine.arch}."
    beyond = [need[1:] for need in target.requires if need.startswith("!") and need[1:] in machine.features]
    if beyond:
        return f"{target.title} is without {' and '.join(beyond)}, which this CPU ({machine.cpu}) has."
    needed = [need for need in target.requires if not need.startswith("!")]
    missing = [need for need in needed if not set(need.split("|")) & set(machine.features)]
    if missing:
        needs = " and ".join(need.replace("|", " or ") for need in missing)
        return f"{target.title} has {needs}, which this CPU ({machine.cpu}) does not show."
    if target.gpu is not None and target.gpu != machine.gpu:
        return f"{target.title} was not at hand: this machine has {machine.gpu or 'no NVIDIA GPU'}."
    if target.builds == "on-device" and target.title not in (machine.board or ""):
        return f"{target.title} was not at hand: this machine is {machine.board or machine.cpu}."
    return None


def can_run(target: Target, machine: Machine) -> bool:
    """Whether the target's runtime runs at all on ``machine``: a GPU's does there alone."""
    on_gpu = target.chip is not None and target.chip.compute_capability is not None
    return not on_gpu or fits(target, machine) is None
