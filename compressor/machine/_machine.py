"""The machine that a latency was taken on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.core import Json
from compressor.machine import probe

__all__ = ["Machine", "fingerprint", "machine", "machine_of"]


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts of a machine that decide a latency. A report keeps it as ``environment``."""

    arch: str
    """``x86_64``, ``aarch64``."""
    board: str | None
    """The name of a single-board computer in its device tree."""
    cpu: str
    features: tuple[str, ...]
    """The CPU's features as /proc/cpuinfo spells them, sorted; empty where it cannot be read."""
    cores: int
    """Those that this process may use."""
    memory_mb: int
    governor: str | None
    """The first by name of the cores' frequency governors; None where there is none (most virtual machines)."""
    load: tuple[float, float, float]
    """Load average over 1, 5 and 15 minutes."""
    system: str
    python: str
    gpu: str | None = None
    """The first NVIDIA GPU, as its driver calls it."""


def machine(root: Path = Path("/")) -> Machine:
    """Read this machine as it is now. ``root`` is the folder that has /proc and /sys."""
    return machine_of(probe.facts(root), probe.state(root))


def machine_of(facts: Mapping[str, Json], state: Mapping[str, Json]) -> Machine:
    """Return the machine of `compressor.machine.probe`'s facts and state, taken here or on a board."""
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
    """Return a key of one device in one configuration: latencies under the same key may be compared."""
    kept = {name: value for name, value in facts.items() if name != "python"}
    lasting = {name: state[name] for name in ("power_mode", "governors", "limits_mhz", "gpu_limits_mhz", "driver")}
    return hashlib.sha256(json.dumps([kept, lasting], sort_keys=True).encode()).hexdigest()
