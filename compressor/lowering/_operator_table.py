"""torch.onnx's table of operators, kept between exports."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    from torch.onnx._internal.exporter._registration import ONNXRegistry
except ImportError:  # a torch that keeps it elsewhere builds it in every export
    ONNXRegistry = None  # type: ignore[assignment,misc]

_own = getattr(ONNXRegistry, "__dict__", {}).get("from_torchlib")
_build = getattr(ONNXRegistry, "from_torchlib", None)


@functools.cache
def _table(**opset: int) -> Any:
    assert _build is not None
    return _build(**opset)


@contextmanager
def kept_operator_table() -> Iterator[None]:
    """Let ``torch.onnx.export`` build its table once for an opset: in every export it takes a third of the time."""
    if _own is None:
        yield
        return
    ONNXRegistry.from_torchlib = staticmethod(_table)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = _own  # type: ignore[method-assign]
