"""Sessions with a signature, over the sessions that travel in bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.core import Signature

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["NamedSession", "file_signature"]


class NamedSession:
    """A `Session`: a runtime's own session with the signature of the ONNX file that it was made from."""

    def __init__(self, session: Callable[[Any], Any], path: Path) -> None:
        self._session = session
        self.signature = file_signature(path)

    def __call__(self, feeds: Feeds) -> Outputs:
        outputs: Outputs = self._session(dict(feeds))
        return outputs


def file_signature(path: Path) -> Signature:
    """Read the signature of an ONNX file, without its external weights."""
    import onnx

    from compressor.onnx_signature import onnx_signature

    return onnx_signature(onnx.load(str(path), load_external_data=False))
