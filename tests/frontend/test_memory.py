"""The limit on memory is lifted again, whatever happened under it."""

from __future__ import annotations

import resource
import threading

import pytest

from compressor.frontend import memory_limit


def limit() -> int:
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def test_what_asks_for_more_gets_none() -> None:
    before = limit()
    with pytest.raises(MemoryError), memory_limit(64 << 20):
        bytearray(1 << 30)
    assert limit() == before


def test_two_threads_take_turns() -> None:
    before, first, second = limit(), threading.Event(), threading.Event()

    def late() -> None:
        first.wait()
        with memory_limit(1 << 30):
            second.wait()

    thread = threading.Thread(target=late)
    thread.start()
    with memory_limit(1 << 30), memory_limit(1 << 20):
        first.set()
        thread.join(0.1)
    second.set()
    thread.join()
    assert limit() == before
