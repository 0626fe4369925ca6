"""What a model file is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir

from compressor import catalog
from compressor.core import GivenInput, Json
from compressor.teacher import load_teacher, sample_sizes

__all__ = ["inspect_model"]


def inspect_model(path: Path, arch: str | None, given: tuple[GivenInput, ...], *, trust: bool = False) -> Json:
    """Describe a model file: family, task, signature, parameters, MACs, and what a run would do with no further flag.

    Of an ONNX file also its operators, and what a target with a TensorRT of its own refuses of it.
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
        **(_operators(path) if graph else {}),
        "normalisation": f"{default} (the family's default; checked against data in a run)" if default else None,
        "run": f"with --data: profile {'ptq' if graph else teacher.task.profile}; "
        "without: profile float, accuracy not measured",
    }


def _operators(path: Path) -> Json:
    """The operators of an ONNX file by their number, and the faults that each target finds."""
    from compressor.frontend import load_onnx
    from compressor.legality import tensorrt_faults
    from compressor.lowering.clean_onnx import clean_graph

    model = load_onnx(path)
    found = Counter(node.op_type for node in model.graph.node)
    faults: dict[tuple[str, int], list[str]] = {}
    refused: dict[str, list[str]] = {}
    for name in catalog.toml_names("targets"):
        target = catalog.find_target(name)
        if target.runtime_version is None:
            continue
        key = (target.runtime_version, target.opset)
        if key not in faults:
            cleaned: onnx.ModelProto = ir.to_proto(clean_graph(model, target.opset))
            faults[key] = [str(fault) for fault in tensorrt_faults(cleaned, target.runtime_version)]
        if faults[key]:
            refused[name] = faults[key]
    return {"operators": dict(found.most_common()), "refused_by": refused}
