"""What a model file is."""

from __future__ import annotations

from pathlib import Path

from compressor.core import GivenInput, Json
from compressor.teacher import load_teacher, sample_sizes

__all__ = ["inspect_model"]


def inspect_model(path: Path, arch: str | None, given: tuple[GivenInput, ...], *, trust: bool = False) -> Json:
    """Describe a model file: family, task, signature, parameters, MACs, and what a run would do with no further flag.

    Raises UsageError or UnsafeInput as `load_teacher` does.
    """
    teacher = load_teacher(path, arch, given, None, trust=trust)
    network, default = teacher.network, teacher.network.default_normalization
    graph = network.family == "onnx"
    return {
        "model": str(path),
        "family": network.family,
        "settings": dict(network.settings),
        "task": teacher.task.kind,
        "params": network.params,
        "macs": network.macs,
        "input": sample_sizes(network),
        "inputs": [str(spec) for spec in network.signature.inputs],
        "outputs": [str(spec) for spec in network.signature.outputs],
        "bytes": path.stat().st_size,
        "notes": list(network.notes),
        "normalisation": f"{default} (the family's default; checked against data in a run)" if default else None,
        "run": f"with --data: profile {'ptq' if graph else teacher.task.profile}; "
        "without: profile float, accuracy not measured",
    }
