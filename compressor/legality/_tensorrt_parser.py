"""NVIDIA's own ONNX parser, where TensorRT for RTX is installed: it needs no GPU to judge a graph."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass

__all__ = ["ParserVerdict", "parse"]

_PACKAGE = "tensorrt-rtx"


@dataclass(frozen=True, slots=True)
class ParserVerdict:
    """What the parser said of a graph."""

    version: str
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    """Types that it changed among them."""


def parse(content: bytes) -> ParserVerdict | None:
    """The verdict on an ONNX file's content; None where the parser is not installed."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return None
    import tensorrt_rtx as trt

    said: list[tuple[int, str]] = []

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            said.append((int(severity), message))

    listener = Listener()
    builder = trt.Builder(listener)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, listener)
    parser.parse(content)
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    warnings = [message for severity, message in said if severity == int(trt.ILogger.WARNING)]
    return ParserVerdict(
        importlib.metadata.version(_PACKAGE),
        tuple(f"{each.node_operator()} {each.node_name()!r}: {each.desc()}".strip() for each in errors),
        tuple(dict.fromkeys(warnings)),
    )
