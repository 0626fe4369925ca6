"""The contract of a task: what a network is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from compressor.core.backend import Session
from compressor.core.data import Data, DataSource, Split
from compressor.core.images import InputSpec, Normalization
from compressor.core.json import Json
from compressor.core.measures import Metric
from compressor.core.passes import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.core.signature import Outputs

__all__ = ["OutputParity", "Task"]


@dataclass(frozen=True, slots=True)
class OutputParity:
    """How far one output is from what it should be, over some samples."""

    max_abs: float
    """The largest difference."""
    relative_error: float
    """``max_abs`` by the largest magnitude expected."""
    db: float
    """Signal-to-noise ratio, at most 200."""
    agreement: float | None
    """The share of samples whose largest entry is the same one; None where that means nothing."""


class Task(Protocol):
    """What a network is for. A frozen dataclass in a file of ``tasks/``; its fields are what the task knows of it."""

    kind: ClassVar[str]
    """Its file's name, with hyphens."""
    profile: ClassVar[str]
    """The profile that is taken where there is data and none is named."""
    losses: ClassVar[tuple[Mapping[str, Json], ...]]
    """The distillation losses that are taken where none are named."""

    @property
    def spatial(self) -> bool:
        """Whether height and width of the image input are free in an export."""
        ...

    @property
    def output_range(self) -> tuple[float, float] | None:
        """What the graph's output is clipped to; None: it is left as it is."""
        ...

    @property
    def mixed_precision(self) -> bool:
        """Whether post-training INT8 searches for the layers to leave in float by the parity of the output."""
        ...

    @property
    def golden(self) -> int:
        """How many samples travel with a bundle at most."""
        ...

    @property
    def facts(self) -> Mapping[str, Json]:
        """What a bundle's runner must know of it: a part of the manifest's ``task``."""
        ...

    def prepare(self, source: DataSource, input: InputSpec, normalization: Normalization, input_name: str) -> Data:
        """The samples of ``source`` for a network that takes images of ``input`` under ``input_name``.

        Raises UsageError where the source has not what the task needs.
        """
        ...

    def evaluate(
        self, session: Session, split: Split, batch: int, progress: Progress, reference: Session | None = None
    ) -> tuple[Metric, NDArray[np.generic]]:
        """The metric over ``split``, and one outcome a sample: a label, dB, …

        ``reference`` is the teacher's session, for what is judged by agreement with it; None for the teacher itself.
        Raises UsageError where the network's outputs are not what the task takes.
        """
        ...

    def allowance(self, metric: Metric) -> float:
        """The drop that post-training INT8 may cost where the user names none, in points or the metric's unit.

        ``metric`` is that of the network in float.
        """
        ...

    def samples(
        self,
        split: Split,
        classes: Sequence[str],
        outcomes: Mapping[str, NDArray[np.generic]],
        sessions: Mapping[str, Session],
        seed: int,
    ) -> Json:
        """What a report shows of single samples; ``outcomes`` and ``sessions`` are of ``teacher`` and ``result``."""
        ...

    def parity(self, expected: Outputs, got: Outputs) -> dict[str, OutputParity]:
        """How far ``got`` is from ``expected``, by output name."""
        ...
