"""Any network: judged by how well the result agrees with the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.core import (
    Data,
    DataSource,
    InputSpec,
    Json,
    Metric,
    Normalization,
    OutputParity,
    Progress,
    Session,
    Split,
)
from compressor.data import FeedSplit, feed_back
from compressor.feeds import concat, run_in_batches
from compressor.tasks._evidence import Evidence
from compressor.tasks._images import prepare_images
from compressor.tasks._parity import Tally, decibels, output_parity

if TYPE_CHECKING:
    from compressor.core.signature import Outputs

__all__ = ["Generic"]

_MOST = 100.0
"""dB: the metric of outputs that are the same."""
_LEAST = 17.0
"""dB: the metric under which integers are not good enough."""


@dataclass(frozen=True)
class Generic:
    """A network of which nothing is known but its signature: no output is changed, and no label is needed."""

    kind: ClassVar[str] = "generic"
    profile: ClassVar[str] = "ptq"
    losses: ClassVar[tuple[Mapping[str, Json], ...]] = ({"loss": "output-l1", "weight": 1.0},)
    spatial: ClassVar[bool] = False
    output_range: ClassVar[tuple[float, float] | None] = None
    mixed_precision: ClassVar[bool] = False
    golden: ClassVar[int] = 8

    @classmethod
    def fits(cls, evidence: Evidence) -> Self | None:
        """Any network, unless its images have labels: those are for a metric that knows them."""
        labelled = evidence.targets == "labels" and evidence.image is not None
        return None if labelled and not evidence.named else cls()

    @property
    def facts(self) -> Mapping[str, Json]:
        """Nothing."""
        return {}

    def prepare(self, source: DataSource, input: InputSpec, normalization: Normalization, input_name: str) -> Data:
        """Images; labels are not looked at."""
        return prepare_images(source, input, normalization, input_name)

    def parity(self, expected: Outputs, got: Outputs) -> dict[str, OutputParity]:
        """The parity of each output; of N x K ones with the agreement of their largest entries."""
        return output_parity(expected, got, labels=True)

    def evaluate(
        self, session: Session, split: Split, batch: int, progress: Progress, reference: Session | None = None
    ) -> tuple[Metric, NDArray[np.float64]]:
        """The SNR in dB (at most 100) of the outputs to ``reference``'s, of the worst output, and that of each sample.

        Further figures are the SNR of each output, where there are several, and the agreement of the largest entries.
        """
        tallies: dict[str, Tally] = {}
        by_sample: list[NDArray[np.float64]] = []
        done = 0
        for count, got, expected in _outputs(session, reference, split, batch):
            for name, array in expected.items():
                tallies.setdefault(name, Tally(labels=True)).add(array, got[name])
            by_sample.append(_by_sample(expected, got, count))
            done += count
            progress(f"evaluating on {split.name}", done, len(split))
        parities = {name: tally.parity() for name, tally in tallies.items()}
        each = {name: min(_MOST, parity.db) for name, parity in parities.items()}
        also = {f"{name}_db": db for name, db in each.items()} if len(each) > 1 else {}
        also |= {f"{name}_agreement": p.agreement for name, p in parities.items() if p.agreement is not None}
        metric = Metric("snr", min(each.values()), len(split), split.fingerprint, split.name, also, unit="dB")
        return metric, np.concatenate(by_sample)

    def allowance(self, metric: Metric) -> float:
        """What leaves an SNR of 17 dB: noise of 2 % of the signal's power, a cosine of 0.99."""
        return _MOST - _LEAST

    def samples(
        self,
        split: Split,
        classes: Sequence[str],
        outcomes: Mapping[str, NDArray[np.float64]],
        sessions: Mapping[str, Session],
        seed: int,
    ) -> Json:
        """Nothing: what outputs mean is not known."""
        return None


def _outputs(
    session: Session, reference: Session | None, split: Split, batch: int
) -> Iterator[tuple[int, Outputs, Outputs]]:
    """Yield, part after part, how many samples it has, the outputs, and those of ``reference`` (None: the same).

    Each sequence of a network with states is run from its beginning, by each of the two with its own states.
    """
    if isinstance(split, FeedSplit) and split.states:
        for steps in split.sequences():
            got = concat([outputs for _, outputs in feed_back(session, steps, split.states)])
            twin = None if reference is None else feed_back(reference, steps, split.states)
            yield 1, got, got if twin is None else concat([outputs for _, outputs in twin])
        return
    for feeds, _ in split.batches(batch):
        got = run_in_batches(session, feeds, batch)
        count = len(next(iter(feeds.values())))
        yield count, got, got if reference is None else run_in_batches(reference, feeds, batch)


def _by_sample(expected: Outputs, got: Outputs, count: int) -> NDArray[np.float64]:
    """The SNR in dB of each sample's worst output; NaN where outputs have no row a sample."""
    if count == 1:
        return np.array([min(min(_MOST, decibels(expected[n], got[n])) for n in expected)])
    if any(o.ndim == 0 or len(o) != count for o in expected.values()):
        return np.full(count, np.nan)
    return np.array([min(min(_MOST, decibels(expected[n][i], got[n][i])) for n in expected) for i in range(count)])
