"""The contract of a pass, and what it may read besides the artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from compressor.core.artifact import Artifact
from compressor.core.data import Data
from compressor.core.json import Json
from compressor.core.models import Model
from compressor.core.profile import Profile
from compressor.core.target import Target

if TYPE_CHECKING:
    from compressor.core.task import Task

__all__ = ["Context", "Pass", "PlanContext", "Progress", "Result"]


class Progress(Protocol):
    """Where a long pass says how far it is."""

    def __call__(self, message: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """All that a pass may read besides the artifact."""

    target: Target
    profile: Profile
    task: Task
    data: Data | None
    workdir: Path
    """This pass's own folder: all that it writes goes here."""
    seed: int
    device: str
    progress: Progress
    memo: Callable[[str, Json, Callable[[], Json]], Json]
    """``memo(name, key, compute)``: the JSON value of ``compute()``, kept across runs under ``key``."""
    kept: Callable[[str, Json], Path]
    """``kept(name, key)``: a folder that stays from run to run, for what is costly and can be made again."""
    further_teachers: tuple[Model, ...] = ()
    """What students learn from beside the artifact's teacher."""
    board: str | None = None
    """Where latency is taken and the bundle tried, as ``ssh://user@host``; None: here."""
    max_drop: float | None = None
    """The drop of the metric that the user allows, in points or the metric's unit; None: the task's own allowance."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass hands back: the next artifact, and what happened."""

    artifact: Artifact
    metrics: Mapping[str, Json] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    pinned: Mapping[str, Json] = field(default_factory=dict)
    """Settings with which it would do the same again, where its own leave something to the device's state."""


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What is known of a run before any work: all that a pass may judge its plan by."""

    target: Target
    targets: str | None
    """What the data has as targets: ``labels``, ``images``; None without data, or without labels."""
    has_train: bool
    has_evaluate: bool


@runtime_checkable
class Pass(Protocol):
    """One step. A frozen dataclass whose fields are its settings."""

    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    produces: ClassVar[frozenset[str]]
    volatile: ClassVar[bool]
    """True where the device's state changes the outcome: never answered from the cache."""

    @property
    def collective(self) -> bool:
        """Whether all processes of a run work on it together; else the first does, and the others read the result."""
        ...

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        """What stands in the way, each with its mend; empty where the pass can run."""
        ...

    def run(self, artifact: Artifact, context: Context) -> Result: ...
