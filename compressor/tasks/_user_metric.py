"""A task judged by the user's own metric."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from compressor.core import Json, Metric, Progress, Session, Split, Task, UsageError
from compressor.data import FeedSplit, ImagePairs, feed_back
from compressor.feeds import concat, run_in_batches
from compressor.user_code import UserCode

if TYPE_CHECKING:
    from compressor.core.signature import Outputs

__all__ = ["METRIC", "UserMetric", "with_metric"]

METRIC = "metric"
"""The fact of a task that names the user's metric."""


def with_metric(task: Task, text: str | None) -> Task:
    """Return ``task`` judged by ``package.module:callable``; with a ``-`` in front a lower value is better.

    None leaves the task its own metric. Raises UsageError where the callable cannot be imported.
    """
    if text is None:
        return task
    lower = text.startswith("-")
    code = UserCode.parse(text.removeprefix("-"))
    if not callable(code.load()):
        raise UsageError(f"--metric {text}: that is not callable", hint="name a function of outputs and targets")
    judged = UserMetric(task, code, not lower)
    return cast(Task, judged)  # class variables of the task come by __getattr__


@dataclass(frozen=True)
class UserMetric:
    """Any task, with the figure that the user's function returns as its metric. Satisfies `compressor.core.Task`.

    The function is called with two dicts of arrays by name: the network's outputs for all samples, and the targets. The
    target of images is ``target``; those of arrays have their own names.
    """

    task: Task
    code: UserCode
    higher_is_better: bool

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    @property
    def facts(self) -> Mapping[str, Json]:
        """Those of the task, and the metric with the SHA-256 of its source file."""
        sign = "" if self.higher_is_better else "-"
        return {**self.task.facts, METRIC: {"name": sign + self.code.text, "sha256": _digest(self.code)}}

    def evaluate(
        self, session: Session, split: Split, batch: int, progress: Progress, reference: Session | None = None
    ) -> tuple[Metric, NDArray[np.float64]]:
        """The user's figure over ``split``, and NaN for each sample.

        Raises UsageError where the function fails, returns no finite number, or the samples are pairs of images, whose
        outputs have no common shape.
        """
        if isinstance(split, ImagePairs):
            raise UsageError(
                "--metric is called with arrays of all samples, and pairs of images are of different sizes",
                hint="leave --metric out, or give the samples as arrays in an .npz",
            )
        outputs, targets = _collect(session, split, batch, progress)
        value = self.code.of(outputs, targets)
        if isinstance(value, bool | str) or (not np.isscalar(value) and np.size(value) != 1):
            raise UsageError(f"{self.code.text} returned {type(value).__name__}, not a number", hint="return a float")
        number = float(np.asarray(value).reshape(()))
        if not math.isfinite(number):
            raise UsageError(f"{self.code.text} returned {number}", hint="return a finite number")
        name = self.code.attribute.rpartition(".")[2]
        metric = Metric(name, number, len(split), split.fingerprint, split.name, higher_is_better=self.higher_is_better)
        return metric, np.full(len(split), np.nan)

    def allowance(self, metric: Metric) -> float:
        """One percent of the figure."""
        return abs(metric.value) / 100

    def samples(self, *args: Any, **kwargs: Any) -> Json:
        """Nothing: the metric tells nothing of single samples."""
        return None


def _collect(session: Session, split: Split, batch: int, progress: Progress) -> tuple[Outputs, dict[str, NDArray[Any]]]:
    """The outputs and targets of all samples, by name."""
    parts: list[Outputs] = []
    targets: list[NDArray[Any]] = []
    done = 0
    if isinstance(split, FeedSplit) and split.states:
        for steps in split.sequences():
            made = concat([outputs for _, outputs in feed_back(session, steps, split.states)])
            parts.append({name: array[None] for name, array in made.items()})
            done += 1
            progress(f"evaluating on {split.name}", done, len(split))
        return concat(parts), split.targets
    for feeds, target in split.batches(batch):
        parts.append(run_in_batches(session, feeds, batch))
        if target is not None:
            targets.append(target)
        done += len(next(iter(feeds.values())))
        progress(f"evaluating on {split.name}", done, len(split))
    if isinstance(split, FeedSplit):
        return concat(parts), split.targets
    return concat(parts), {"target": np.concatenate(targets)} if targets else {}


def _digest(code: UserCode) -> str:
    """The SHA-256 of the file that the function is in; of none where it has no file."""
    import inspect

    try:
        path = inspect.getsourcefile(inspect.unwrap(code.load()))
    except TypeError:
        path = None
    content: Sequence[int] | bytes = Path(path).read_bytes() if path and Path(path).is_file() else b""
    return hashlib.sha256(bytes(content)).hexdigest()
