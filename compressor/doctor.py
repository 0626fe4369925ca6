"""Describe this machine: what it has, and which targets it can build and measure."""

from __future__ import annotations

from compressor import catalog
from compressor.bench.machine import fits, machine
from compressor.core import Json, Unavailable
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
        try:
            runtime = f"{target.backend} {catalog.find('backends', target.backend)().version()}"
        except Unavailable as error:
            runtime = f"{error.what} ({error.hint})"
        targets.append({"target": name, "runtime": runtime, "measured here": fits(target, here) or "yes"})
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
