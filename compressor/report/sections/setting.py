"""Input, data and environment of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from compressor.core import Json
from compressor.figures import count
from compressor.report.sections._section import Section, cut, table

__all__ = ["setting"]

_FEATURES = ("avx2", "fma", "avx512_vnni", "avx_vnni", "asimddp", "fphp")
"""CPU features that decide which kernels run."""


def setting(report: Mapping[str, Json]) -> Section:
    """Show input, data, machine and versions."""
    facts = tuple((name, cut(words)) for name, words in _facts(report))
    versions = table("versions", ("library", "version"), report["versions"].items())
    return Section("environment", "Input, data and environment", facts=facts, table=versions)


def _facts(report: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    here = report["environment"]
    yield "task", report["task"]
    for kind in ("input", "output"):
        for tensor in report[f"{kind}s"]:
            yield f"{kind} {tensor['name']}", _tensor(tensor, report["sizes"])
    if normalization := report["normalization"]:
        yield "normalised", _normalised(normalization)
    if report["data"]:
        yield "data", report["data"]["source"]
        for name, fingerprint in report["data"]["fingerprints"].items():
            yield name, f"fingerprint {fingerprint}"
    if report["result"]["metric"]:
        yield "judged on", report["result"]["metric"]["source"]
    for note in report["notes"]:
        yield "noted", note
    yield "target", report["target"]
    yield "seed", str(report["seed"])
    cores = f"{here['cores']} core{'' if here['cores'] == 1 else 's'}"
    memory = count(here["memory_mb"] * 2**20, "B")
    yield "machine", f"{here['board'] or here['cpu']}, {here['arch']}, {cores}, {memory} of memory"
    yield "CPU features", ", ".join(f for f in _FEATURES if f in here["features"]) or "none that choose kernels"
    yield "frequency governor", here["governor"] or "unknown"
    yield "load", ", ".join(f"{each:.1f}" for each in here["load"]) + " over 1, 5 and 15 minutes"
    yield "system", f"{here['system']}, Python {here['python']}"


def _tensor(tensor: Json, sizes: Mapping[str, Json]) -> str:
    """Print a type and shape, each free axis with the size that was measured."""
    axes = (f"{axis} ({sizes[axis]})" if axis in sizes else str(axis) for axis in tensor["shape"])
    return f"{tensor['dtype']}, {' × '.join(axes) or 'a single value'}"


def _normalised(normalization: Json) -> str:
    scale = normalization["scale"]
    scaled = "as they are" if scale == 1 else "/ 255" if math.isclose(scale, 1 / 255) else f"x {scale:g}"
    mean, std = (", ".join(f"{value:g}" for value in normalization[key]) for key in ("mean", "std"))
    order = f"{normalization['channels']}, {normalization['layout']}"
    return f"{normalization['name']}: pixels {scaled}, mean {mean}, std {std}; {order}"
