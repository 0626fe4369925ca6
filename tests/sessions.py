"""A session in memory: a function of one batch under the names ``input`` and ``output``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compressor.core import InputSpec, image_signature

__all__ = ["FunctionSession"]


class FunctionSession:
    """A function from N x C x H x W to the one output. Satisfies `compressor.core.Session`."""

    def __init__(self, function: Callable[[Any], Any], input: InputSpec) -> None:
        self.function = function
        self.signature, _ = image_signature(input)

    def __call__(self, feeds: Any) -> dict[str, Any]:
        return {"output": self.function(feeds["input"])}
