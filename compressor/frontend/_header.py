"""The header of a safetensors file: what it claims, against what the file holds."""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

from compressor.frontend._claims import Broken, FalseClaim

__all__ = ["check_header"]

_LONGEST = 8_000_000
"""Most bytes of the JSON; a tensor takes some hundred."""
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


def check_header(file: BinaryIO, size: int) -> None:
    """Check the header. Raises Broken where the file is truncated or of another format, FalseClaim where its tensors do
    not lie in it as they claim."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise Broken
    if length > _LONGEST:
        raise FalseClaim(f"has a header of {length:,} bytes")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Broken from error
    if not isinstance(header, dict):
        raise Broken
    header.pop("__metadata__", None)
    spans = sorted(_span(name, entry) for name, entry in header.items())
    end = 0
    for begin, stop, name in spans:
        if begin < end:
            raise FalseClaim(f"has tensors that overlap ({name!r})")
        end = stop
    if end > size - 8 - length:
        raise Broken


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise FalseClaim("names a tensor twice")
    return table


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    """Return where a tensor's bytes begin and end, having checked that its shape and type take as many."""
    if not isinstance(entry, dict):
        raise Broken
    type, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if type not in _BITS or not isinstance(shape, list) or not isinstance(span, list) or len(span) != 2:
        raise Broken
    if len(shape) > 64 or any(not isinstance(n, int) or not 0 <= n < 2**63 for n in (*shape, *span)):
        raise FalseClaim(f"claims an impossible shape or place of a tensor ({name!r})")
    begin, stop = span
    claimed = math.prod(shape) * _BITS[type] // 8
    if claimed != stop - begin:
        raise FalseClaim(f"claims {min(claimed, 2**63):,} bytes for a tensor ({name!r}) in {stop - begin:,}")
    return begin, stop, name
