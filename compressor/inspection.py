"""What a model file is."""

from __future__ import annotations

from pathlib import Path

from compressor.core import InputSpec, Json
from compressor.teacher import family_default, load_teacher

__all__ = ["inspect_model"]


def inspect_model(path: Path, arch: str | None, input: InputSpec | None, *, trust: bool = False) -> Json:
    """Family, parameters, MACs, input, and what a run would do with no further flag."""
    taken = load_teacher(path, arch, input, None, trust=trust)
    default = family_default(taken.ingested, taken.input.channels)
    return {
        "model": str(path),
        "family": taken.ingested.family,
        "settings": dict(taken.ingested.settings),
        "params": taken.params,
        "macs": taken.macs,
        "input": str(taken.input),
        "outputs": taken.outputs,
        "bytes": path.stat().st_size,
        "notes": list(taken.ingested.notes),
        "normalisation": f"{default} (the family's default; checked against data in a run)" if default else None,
        "run": "with --data: profile ptq (int8); without: profile float, accuracy not measured",
    }
