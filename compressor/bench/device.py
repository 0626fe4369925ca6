"""A device on which latency is taken: this machine, or a board."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from compressor.bench.timing import Blocks, Runner, TimingConfig, interleave, pinned
from compressor.core import Json, Progress
from compressor.machine import probe

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["Device", "LoadedModel", "TimingRun", "here"]


@dataclass(frozen=True, slots=True)
class TimingRun:
    """Samples of several models that took turns, and the device's state around them."""

    blocks: Mapping[str, Blocks] = field(repr=False)
    threads: int
    pinned: tuple[int, ...]
    """The cores that the work was bound to; empty where the system has no say in that."""
    runtime: str
    """Its name and version."""
    before: Mapping[str, Json]
    after: Mapping[str, Json]
    """`compressor.machine.probe.state`, with ``runtime`` beside it."""
    cached: str | None = None
    """When it was measured, where it was not measured now."""

    @property
    def changed(self) -> list[str]:
        """What of the device changed meanwhile and makes the samples invalid."""
        return probe.changed(dict(self.before), dict(self.after))

    @property
    def throttled(self) -> bool:
        return probe.throttled(dict(self.before), dict(self.after))

    def pooled(self, more: TimingRun) -> TimingRun:
        """Return these samples and ``more``, which were taken after them, as one run."""
        blocks = {name: (*samples, *more.blocks[name]) for name, samples in self.blocks.items()}
        return replace(more, blocks=blocks, before=self.before, cached=more.cached and self.cached)


class Device(Protocol):
    """A device that holds some models ready to be timed in turns."""

    @property
    def facts(self) -> Mapping[str, Json]:
        """`compressor.machine.probe.facts` of it."""
        ...

    def state(self) -> Mapping[str, Json]:
        """`compressor.machine.probe.state` of it, now, with ``runtime`` beside it."""
        ...

    def take(self, config: TimingConfig, progress: Progress) -> TimingRun:
        """Time all models, interleaved."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model to be run on this machine: the file, the backend that opens it, and the feeds of one run."""

    path: Path
    backend: str
    feeds: Feeds = field(repr=False)


@dataclass(frozen=True)
class _Here:
    runners: Mapping[str, Runner]
    threads: int
    cores: tuple[int, ...]
    runtime: str
    facts: Mapping[str, Json]

    def state(self) -> Mapping[str, Json]:
        return {**probe.state(), "runtime": self.runtime}

    def take(self, config: TimingConfig, progress: Progress) -> TimingRun:
        before = self.state()
        blocks = interleave(self.runners, config, progress=progress)
        return TimingRun(blocks, self.threads, self.cores, self.runtime, before, self.state())


@contextlib.contextmanager
def here(models: Mapping[str, LoadedModel], threads: int) -> Iterator[Device]:
    """Open ``models`` in this process, on ``threads`` threads bound to as many of this machine's cores."""
    from compressor import catalog

    with pinned(threads) as cores:
        runners: dict[str, Runner] = {}
        runtimes: set[str] = set()
        for name, model in models.items():
            backend = catalog.find("backends", model.backend)()
            session = backend.open(model.path, threads=threads)
            runners[name] = functools.partial(session, model.feeds)
            runtimes.add(f"{backend.name} {backend.version()}")
        yield _Here(runners, threads, cores, ", ".join(sorted(runtimes)), probe.facts())
