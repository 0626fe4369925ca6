"""Canonical Huffman coding, the shortest code of single symbols. `compressor.bundle.runner` decodes it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["encode", "lengths"]


def lengths(counts: Sequence[int]) -> list[int]:
    """Return the bits of each symbol's code by how often it occurs.

    They are 0 for a symbol that never occurs, and 1 where there is only one.
    """
    heap = [(count, [symbol]) for symbol, count in enumerate(counts) if count]
    bits = [0] * len(counts)
    if len(heap) == 1:
        bits[heap[0][1][0]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (first, left), (second, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in (merged := left + right):
            bits[symbol] += 1
        heapq.heappush(heap, (first + second, merged))
    return bits


def encode(symbols: ArrayLike, bits: Sequence[int]) -> bytes:
    """Encode the symbols 0, 1, … with codes of these ``lengths``, beginning at the highest bit of the first byte."""
    given = np.asarray(symbols, np.int64).reshape(-1)
    longest = max(bits, default=0)
    table = np.zeros((len(bits), longest), np.uint8)
    for symbol, code in _codes(bits).items():
        table[symbol, : bits[symbol]] = [code >> (bits[symbol] - 1 - i) & 1 for i in range(bits[symbol])]
    is_used = np.arange(longest)[None, :] < np.asarray(bits, np.int64)[given][:, None]
    return np.packbits(table[given][is_used]).tobytes()


def _codes(bits: Sequence[int]) -> dict[int, int]:
    """Assign a code to each symbol; codes of one length ascend with the symbols (RFC 1951, section 3.2.2)."""
    codes: dict[int, int] = {}
    code = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(bits) if length):
        code <<= length - before
        codes[symbol], code, before = code, code + 1, length
    return codes
