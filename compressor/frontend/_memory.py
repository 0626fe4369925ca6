"""A limit on memory while a foreign file is read or run."""

from __future__ import annotations

import mmap
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SPARE = 1 << 20
"""Bytes kept aside, so that Python has room to lift the limit where all else is taken."""
_ONE_THREAD = threading.RLock()
"""The limit is the process's: of two threads that set it, the second would keep the first one's for good."""


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Let this process take at most ``more`` bytes of address space beyond what it holds now.

    What asks for more gets none: Python and the libraries raise MemoryError, or an error of their own. Another thread
    that sets a limit waits for this one.
    """
    with _ONE_THREAD:
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
