"""The one door through which a model file enters, and the way its weights are kept."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.frontend._build import make_network
    from compressor.frontend._file import open_model_file
    from compressor.frontend._loaded import LoadedNetwork
    from compressor.frontend._loader import load_checkpoint
    from compressor.frontend._memory import memory_limit
    from compressor.frontend._networks import load_network
    from compressor.frontend._onnx import load_onnx
    from compressor.frontend._session import TorchSession
    from compressor.frontend._weights import save_weights

__all__ = [
    "LoadedNetwork", "TorchSession", "load_checkpoint", "load_network", "load_onnx", "make_network", "memory_limit",
    "open_model_file", "save_weights",
]  # fmt: skip

_HOMES = {
    "LoadedNetwork": "_loaded", "TorchSession": "_session", "load_checkpoint": "_loader", "load_network": "_networks",
    "load_onnx": "_onnx", "make_network": "_build", "memory_limit": "_memory", "open_model_file": "_file",
    "save_weights": "_weights",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import each name when it is first used, so that an ONNX file is checked without importing torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
