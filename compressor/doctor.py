"""Describe this machine: what it has, and which targets it can build and measure."""

from __future__ import annotations

from compressor import catalog
from compressor.core import Json, Unavailable
from compressor.machine import judgement, machine
from compressor.versions import installed_versions

__all__ = ["examine"]

_FEATURES = ("avx2", "fma", "avx512_vnni", "avx_vnni", "asimddp", "fphp")
"""CPU features that change how fast or how exactly a model runs, as in /proc/cpuinfo."""


def examine() -> Json:
    """Return CPU, memory, libraries, and for each target its runtime and whether it can be measured here."""
    here = machine()
    targets = []
    for name in catalog.toml_names("targets"):
        target = catalog.find_target(name)
        backend = catalog.find("backends", target.backend)()
        try:
            runtime = f"{backend.name} {backend.version()}"
        except Unavailable as error:
            runtime = f"{error.what} ({error.hint})"
        mismatch = judgement(target, backend, here).reason
        targets.append({"target": name, "runtime": runtime, "measured here": mismatch or "yes"})
    return {
        "gpu": here.gpu,
        "cpu": here.cpu,
        "arch": here.arch,
        "cores": here.cores,
        "memory_mb": here.memory_mb,
        "governor": here.governor,
        "features": ", ".join(f for f in _FEATURES if f in here.features) or "none that matter here",
        "versions": [f"{name} {version}" for name, version in installed_versions().items()],
        "targets": targets,
    }
