"""Canonical Huffman codes: the shortest storage of symbols one by one. (`compressor.bundle.runner` decodes them.)"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["encode", "lengths"]


def lengths(counts: Sequence[int]) -> list[int]:
    """Bits of each symbol's code by how often it occurs; 0 for one that never does, 1 where there is only one."""
    heap = [(count, [symbol]) for symbol, count in enumerate(counts) if count]
    found = [0] * len(counts)
    if len(heap) == 1:
        found[heap[0][1][0]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (first, ours), (second, theirs) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in (merged := ours + theirs):
            found[symbol] += 1
        heapq.heappush(heap, (first + second, merged))
    return found


def encode(symbols: ArrayLike, bits: Sequence[int]) -> bytes:
    """Symbols 0, 1, … as codes of these ``lengths``, the first bit the highest of the first byte."""
    given = np.asarray(symbols, np.int64).reshape(-1)
    words = _words(bits)
    longest = max(bits, default=0)
    table = np.zeros((len(bits), longest), np.uint8)
    for symbol, word in words.items():
        table[symbol, : bits[symbol]] = [word >> (bits[symbol] - 1 - i) & 1 for i in range(bits[symbol])]
    there = np.arange(longest)[None, :] < np.asarray(bits, np.int64)[given][:, None]
    return np.packbits(table[given][there]).tobytes()


def _words(bits: Sequence[int]) -> dict[int, int]:
    """Each symbol's code: of the same length in the order of the symbols (RFC 1951, section 3.2.2)."""
    words: dict[int, int] = {}
    word = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(bits) if length):
        word <<= length - before
        words[symbol], word, before = word, word + 1, length
    return words
