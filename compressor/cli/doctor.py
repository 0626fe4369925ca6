"""``compress doctor``: tell what this machine has."""

from __future__ import annotations

from compressor.cli._options import AsJson
from compressor.cli._printing import print_document

__all__ = ["doctor"]


def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine has: CPU, libraries, and the targets that can be built and measured here."""
    from compressor.doctor import examine

    print_document(examine(), as_json)
