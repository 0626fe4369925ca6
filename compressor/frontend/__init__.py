"""The one door through which a model file enters, and the way its weights are kept."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.frontend._file import opened
    from compressor.frontend._loader import Ingested, ingest
    from compressor.frontend._memory import memory_limit
    from compressor.frontend._networks import load
    from compressor.frontend._onnx import read_onnx
    from compressor.frontend._weights import save

__all__ = ["Ingested", "ingest", "load", "memory_limit", "opened", "read_onnx", "save"]

_HOMES = {
    "Ingested": "_loader", "ingest": "_loader", "load": "_networks",
    "memory_limit": "_memory", "opened": "_file", "read_onnx": "_onnx", "save": "_weights",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: an ONNX file is judged without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
