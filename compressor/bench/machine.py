"""The machine that a latency was taken on, and which targets it may speak for."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from compressor.core import Target


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
    """The first core's frequency governor; None where the kernel shows none (most virtual machines)."""
    load: tuple[float, float, float]
    """Load average over 1, 5 and 15 minutes."""
    system: str
    python: str
    gpu: str | None = None
    """The first NVIDIA GPU, as its driver calls it."""


def machine(root: Path = Path("/")) -> Machine:
    """This machine as it is now. ``root`` is where /proc and /sys are found."""
    facts = _cpuinfo(_text(root / "proc/cpuinfo"))
    board = _text(root / "proc/device-tree/model") or None
    return Machine(
        arch=platform.machine(),
        board=board,
        cpu=facts.get("model name") or board or "unknown",
        features=tuple(sorted(set((facts.get("flags") or facts.get("Features") or "").split()))),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        load=os.getloadavg(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        gpu=_gpu(root),
    )


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


def _gpu(root: Path) -> str | None:
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in _text(path).splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None


def _text(path: Path) -> str:
    """A small file of /proc or /sys, without its newline or NUL; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _cpuinfo(text: str) -> dict[str, str]:
    """The first core's entries."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts
