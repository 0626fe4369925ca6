"""The one door through which a model file enters, and the way its weights are kept."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.ingest._file import opened
    from compressor.ingest._ingest import Ingested, ingest
    from compressor.ingest._memory import memory_limit
    from compressor.ingest._networks import load
    from compressor.ingest._onnx import read_onnx
    from compressor.ingest._weights import save

__all__ = ["Ingested", "ingest", "load", "memory_limit", "opened", "read_onnx", "save"]

_HOMES = {
    "Ingested": "_ingest", "ingest": "_ingest", "load": "_networks",
    "memory_limit": "_memory", "opened": "_file", "read_onnx": "_onnx", "save": "_weights",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: an ONNX file is judged without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
