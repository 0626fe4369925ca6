"""Sessions in memory: functions of one batch of images, and of feeds by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compressor.core import InputSpec, Signature, image_signature

__all__ = ["FeedsSession", "FunctionSession"]


class FunctionSession:
    """A function from N x C x H x W to the one output. Satisfies `compressor.core.Session`."""

    def __init__(self, function: Callable[[Any], Any], input: InputSpec) -> None:
        self.function = function
        self.signature, _ = image_signature(input)

    def __call__(self, feeds: Any) -> dict[str, Any]:
        return {"output": self.function(feeds["input"])}


class FeedsSession:
    """A function from feeds to outputs, by name. Satisfies `compressor.core.Session`."""

    def __init__(self, signature: Signature, function: Callable[[Any], dict[str, Any]]) -> None:
        self.signature, self.function = signature, function

    def __call__(self, feeds: Any) -> dict[str, Any]:
        return self.function(feeds)
