"""Whether TensorRT will take a graph: by the project's own rules, and by NVIDIA's parser where it is installed."""

from __future__ import annotations

from compressor.core import Json, VerificationFailed

__all__ = ["judge_for_tensorrt"]

_SHOWN = 3


def judge_for_tensorrt(content: bytes, version: str) -> dict[str, Json]:
    """Judge an ONNX file's content for TensorRT ``version``; return who judged it, and that version.

    Raises VerificationFailed, naming the nodes, where TensorRT refuses it or would change a type.
    """
    import onnx

    from compressor.legality._tensorrt import tensorrt_faults
    from compressor.legality._tensorrt_parser import parse

    if faults := tensorrt_faults(onnx.load_from_string(content), version):
        shown = "; ".join(f"{fault.node}: {fault.what}" for fault in faults[:_SHOWN])
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise VerificationFailed(f"TensorRT {version} does not take this graph: {shown}{more}", hint=faults[0].hint)
    judges = [f"own rules for TensorRT {version}"]
    if verdict := parse(content):
        if messages := verdict.errors or verdict.warnings:
            raise VerificationFailed(
                f"NVIDIA's parser ({verdict.version}) objects: {'; '.join(messages[:_SHOWN])}",
                hint="inspect the graph; --profile float may still work",
            )
        judges.append(f"NVIDIA's parser, TensorRT for RTX {verdict.version}")
    return {"judged_by": ", ".join(judges), "graph_for": version}
