"""NVIDIA's own ONNX parser, where TensorRT for RTX is installed. It needs no GPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass

__all__ = ["ParserVerdict", "parse"]

_PACKAGE = "tensorrt-rtx"
_HARMLESS = re.compile(r"Make sure (input|output) .+ has Int64 binding")
"""A warning about a graph's int64 inputs and outputs, which our sessions feed as such."""


@dataclass(frozen=True, slots=True)
class ParserVerdict:
    """The parser's messages about a graph."""

    version: str
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    """Among them the types that it changes."""


def parse(content: bytes) -> ParserVerdict | None:
    """Parse an ONNX file's content; None where the parser is not installed."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return None
    import tensorrt_rtx as trt

    logged: list[tuple[int, str]] = []

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            logged.append((int(severity), message))

    listener = Listener()
    builder = trt.Builder(listener)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, listener)
    parser.parse(content)
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    warnings = [
        message
        for severity, message in logged
        if severity == int(trt.ILogger.WARNING) and not _HARMLESS.search(message)
    ]
    return ParserVerdict(
        importlib.metadata.version(_PACKAGE),
        tuple(f"{each.node_operator()} {each.node_name()!r}: {each.desc()}".strip() for each in errors),
        tuple(dict.fromkeys(warnings)),
    )
