"""The smallest form of a model file; `compressor.bundle.runner.unpack` reads it."""

from __future__ import annotations

import json
import lzma
import zlib

import numpy as np
import onnx

from compressor.bundle.runner import MAGIC, unpack
from compressor.quant.huffman import encode, lengths

__all__ = ["stored"]

_LEAST = 64
"""Bytes under which a tensor is not worth a code table."""
_WIDTHS = {
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.UINT2: 2,
}
"""Bits a symbol in the raw data of integer tensors."""


def stored(model: bytes) -> bytes:
    """An ONNX file's bytes with its integer tensors Huffman-coded, each by its own symbols, and the rest as LZMA."""
    rest, coded, codes, done = [], [], [], 0
    for tensor in onnx.load_from_string(model).graph.initializer:
        raw, width = tensor.raw_data, _WIDTHS.get(tensor.data_type)
        if width is None or len(raw) < _LEAST or (at := model.find(raw, done)) < 0:
            continue
        symbols = _symbols(raw, width)
        table = lengths(np.bincount(symbols, minlength=2**width).tolist())
        code = encode(symbols, table)
        if len(code) + 2**width // 4 >= len(raw):
            continue
        rest.append(model[done:at])
        done = at + len(raw)
        coded.append(code)
        at = sum(map(len, rest))
        codes.append({"at": at, "width": width, "count": len(symbols), "bytes": len(code), "lengths": table})
    rest.append(model[done:])
    body = lzma.compress(b"".join(rest), preset=9 | lzma.PRESET_EXTREME)
    header = zlib.compress(json.dumps({"rest": len(body), "codes": codes}, separators=(",", ":")).encode(), 9)
    packed = b"".join([MAGIC, len(header).to_bytes(4, "little"), header, body, *coded])
    assert unpack(packed) == model
    return packed


def _symbols(raw: bytes, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The symbols of raw data, the lowest bits of a byte first."""
    given = np.frombuffer(raw, np.uint8).astype(np.int64)
    return np.stack([given >> shift & (2**width - 1) for shift in range(0, 8, width)], axis=1).reshape(-1)
