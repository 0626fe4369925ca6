"""A limit on memory while a foreign file is read or run."""

from __future__ import annotations

import mmap
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SPARE = 1 << 20
"""Bytes kept aside, so that Python has room to lift the limit where all else is taken."""


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Let this process take at most ``more`` bytes of address space beyond what it holds now.

    What asks for more gets none: Python and the libraries raise MemoryError, or an error of their own.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    spare = mmap.mmap(-1, _SPARE)
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    ceilings = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([held + more, *ceilings]), before[1]))
    try:
        yield
    finally:
        spare.close()
        resource.setrlimit(resource.RLIMIT_AS, before)
