"""Sessions that know their signature, over runtimes' own that travel in bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.core import Signature

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["NamedSession", "file_signature"]


class NamedSession:
    """A runtime's session with the signature of the ONNX file that it was made from. Satisfies `Session`."""

    def __init__(self, session: Callable[[Any], Any], path: Path) -> None:
        self._session = session
        self.signature = file_signature(path)

    def __call__(self, feeds: Feeds) -> Outputs:
        made: Outputs = self._session(dict(feeds))
        return made


def file_signature(path: Path) -> Signature:
    """The signature of an ONNX file, its weights left unread."""
    import onnx
    import onnx_ir as ir

    from compressor.lowering.signature import signature_of

    return signature_of(ir.from_proto(onnx.load(str(path), load_external_data=False)))
