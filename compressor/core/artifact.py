"""What passes hand on: everything that has been made so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compressor.core.json import Json
from compressor.core.measures import Measurements, Stage
from compressor.core.models import Model, OnnxModel

__all__ = ["SLOTS", "Artifact", "Bundle", "Engine", "Record"]

SLOTS = ("teacher", "student", "reference", "onnx", "engine", "measurements", "bundle")
"""The slots of an `Artifact` that a pass may need or produce."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What the target's runtime loads: ``ready``, or ``pending`` until ``todo`` is done."""

    backend: str
    path: Path
    sha256: str
    status: str
    todo: str | None = None
    files: tuple[Path, ...] = ()
    """What else belongs into the bundle: how it is made on the device, and run there."""
    facts: Mapping[str, Json] = field(default_factory=dict)
    """What was found out while it was made: who judged the graph, which precision each layer has."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A deployable folder that was loaded from disk, run and checked."""

    path: Path
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """What one pass did: a line of the report."""

    kind: str
    settings: Mapping[str, Json]
    seconds: float
    cached: bool
    metrics: Mapping[str, Json]
    warnings: tuple[str, ...]
    pinned: Mapping[str, Json] = field(default_factory=dict)
    """As in `Result`."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What has been made so far; each slot is empty until a pass fills it."""

    teacher: Model
    student: Model | None = None
    reference: OnnxModel | None = None
    """The teacher's fp32 export: what the result is judged against."""
    onnx: OnnxModel | None = None
    """The result's graph."""
    engine: Engine | None = None
    measurements: Measurements | None = None
    bundle: Bundle | None = None
    log: tuple[Record, ...] = ()
    stages: tuple[Stage, ...] = ()
    """The graphs that have been the result's, in the order they were made; the run keeps count, not a pass."""
    further_teachers: tuple[Model, ...] = ()
    """What students learn from beside the teacher."""

    @property
    def result(self) -> Model:
        """The model that is being shipped: the student, or the teacher itself."""
        return self.student or self.teacher
