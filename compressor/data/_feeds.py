"""Samples as arrays by the names of a network's inputs: ``.npz`` files, and the user's own code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.core import Batch, GivenInput, Signature, TensorSpec, UsageError
from compressor.data._npz import read_all_arrays
from compressor.data._splits import HELD_OUT
from compressor.data._states import feed_back, states_of

if TYPE_CHECKING:
    from compressor.core import Session

__all__ = [
    "ArraySamples",
    "FeedSource",
    "FeedSplit",
    "PreparedFeeds",
    "array_samples_of",
    "read_array_samples",
    "split_array_samples",
]

TARGET = "target"
"""What the names of arrays begin with that are no inputs, but what the outputs should be."""
_LARGEST = 16 << 30
"""Bytes of all samples: they are in memory."""
_HINT = (
    "give one .npz whose arrays have one row a sample, a folder of .npz files of one sample each, or a function that "
    "returns dicts of arrays; names are the network's inputs, and target… of what it should answer"
)


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Some samples of a source, as stored."""

    name: str
    arrays: Mapping[str, NDArray[Any]]
    """By name, one row a sample of the whole source."""
    rows: NDArray[np.int64]
    """Which of the rows."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def inputs(self) -> dict[str, NDArray[Any]]:
        """The arrays that are fed."""
        return {name: array for name, array in self.arrays.items() if not name.startswith(TARGET)}

    @property
    def targets(self) -> dict[str, NDArray[Any]]:
        """What the outputs should be, one row for each sample of this part."""
        return {name: array[self.rows] for name, array in self.arrays.items() if name.startswith(TARGET)}

    @cached_property
    def keys(self) -> list[str]:
        """A digest of each sample's content."""
        return [self._digest(row) for row in self.rows.tolist()]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the samples, in an order of its own."""
        return hashlib.sha256("\n".join(sorted(self.keys)).encode()).hexdigest()

    def take(self, positions: NDArray[np.int64], name: str) -> ArraySamples:
        """The samples at ``positions`` of this part."""
        return replace(self, name=name, rows=self.rows[positions])

    def _digest(self, row: int) -> str:
        sha256 = hashlib.sha256()
        for name in sorted(self.arrays):
            sample = np.ascontiguousarray(self.arrays[name][row])
            sha256.update(f"{name}\0{sample.dtype}\0{sample.shape}\0".encode())
            sha256.update(sample.tobytes())
        return sha256.hexdigest()


@dataclass(frozen=True, eq=False)
class FeedSource:
    """A source of arrays, split. ``train`` and ``evaluate`` share no sample."""

    train: ArraySamples | None
    evaluate: ArraySamples
    notes: tuple[str, ...]

    size: ClassVar[None] = None
    images: ClassVar[bool] = False

    @property
    def targets(self) -> str | None:
        """``labels`` where there is one target and it is a class number a sample; else None."""
        targets = list(self.evaluate.targets.values())
        return "labels" if len(targets) == 1 and targets[0].ndim == 1 and targets[0].dtype.kind in "iu" else None

    @property
    def classes(self) -> tuple[str, ...]:
        """The numbers of the classes, as far as there are samples of them."""
        if self.targets is None:
            return ()
        parts = [part for part in (self.train, self.evaluate) if part is not None]
        highest = max(int(array.max()) for part in parts for array in part.targets.values())
        return tuple(map(str, range(highest + 1)))

    def given_inputs(self) -> tuple[GivenInput, ...]:
        """What ``--input`` would say of one sample."""
        return tuple(
            GivenInput(name, array.shape[1:], tuple((n, n) for n in array.shape[1:]), _fed_dtype(array.dtype))
            for name, array in self.evaluate.inputs.items()
        )

    def sizes(self, signature: Signature) -> dict[str, int]:
        """The sizes that the samples have along the free axes of a network's inputs, but for the batch's."""
        given = self.evaluate.inputs
        if len(signature.inputs) == 1 and len(given) == 1:
            given = {signature.input.name: next(iter(given.values()))}
        found: dict[str, int] = {}
        for spec in signature.inputs:
            own = given[spec.name].shape[1:] if spec.name in given else ()
            axes = zip(reversed(spec.shape), reversed(own), strict=False)
            found |= {axis: size for axis, size in axes if isinstance(axis, str) and axis != signature.batch}
        return found

    def prepare_feeds(self, signature: Signature, session: Session) -> PreparedFeeds:
        """The samples as a network takes them; ``session`` is the network itself, for what it remembers.

        Raises UsageError where names, types or shapes are not those of its inputs.
        """
        states = states_of(signature, self.evaluate.inputs)
        train = None if self.train is None else FeedSplit.of(self.train, signature, states, session)
        notes = self.notes
        if states:
            told = ", ".join(f"{source} -> {sink}" for sink, source in states.items())
            notes += (f"samples are sequences, each begun with zeros; what is fed back is {told}",)
        return PreparedFeeds(train, FeedSplit.of(self.evaluate, signature, states, session), notes, self.classes)


@dataclass(frozen=True, eq=False)
class PreparedFeeds:
    """Satisfies `compressor.core.Data`."""

    train: FeedSplit | None
    evaluate: FeedSplit
    notes: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def targets(self) -> str | None:
        return "labels" if self.classes else None


@dataclass(frozen=True, eq=False)
class FeedSplit:
    """Samples as a network takes them. Satisfies `compressor.core.Split`.

    A sample of a network that remembers is a sequence of steps: ``batches`` yields single steps, with the states that
    the network in float has there.
    """

    raw: ArraySamples
    feeds: Mapping[str, NDArray[Any]]
    """What is fed, one row a sample of the whole source; of a sequence one axis more, of its steps."""
    states: Mapping[str, str]
    """The output that is fed back into an input, by the input; none of a network without states."""
    session: Session
    """The network in float."""

    @classmethod
    def of(cls, raw: ArraySamples, signature: Signature, states: Mapping[str, str], session: Session) -> FeedSplit:
        """Check the samples against the network's inputs. Raises UsageError where they do not fit."""
        given = raw.inputs
        wanted = [spec.name for spec in signature.inputs if spec.name not in states]
        if len(wanted) == 1 and len(given) == 1:
            given = dict(zip(wanted, given.values(), strict=True))
        if set(given) != set(wanted):
            raise UsageError(
                f"{raw.name} has arrays {', '.join(given) or 'of no name'}, and the network takes {', '.join(wanted)}",
                hint=_HINT,
            )
        feeds = {
            spec.name: _fitted(given[spec.name], spec, raw.name, signature, steps=bool(states))
            for spec in signature.inputs
            if spec.name not in states
        }
        return cls(raw, feeds, states, session)

    @property
    def name(self) -> str:
        return self.raw.name

    @property
    def fingerprint(self) -> str:
        return self.raw.fingerprint

    @property
    def labels(self) -> NDArray[np.int64]:
        """The one target, as class numbers."""
        (target,) = self.raw.targets.values()
        return target.astype(np.int64)

    @property
    def targets(self) -> dict[str, NDArray[Any]]:
        """What the outputs should be, by name, one row a sample."""
        return self.raw.targets

    def __len__(self) -> int:
        return len(self.raw)

    def take(self, indices: NDArray[np.int64]) -> FeedSplit:
        """The samples at ``indices``, with a name and a fingerprint of their own."""
        return replace(self, raw=self.raw.take(indices, f"{len(indices):,} of {self.name}"))

    def sequences(self) -> Iterator[list[Mapping[str, NDArray[Any]]]]:
        """Yield each sample of a network with states as its steps, without the states."""
        for row in self.raw.rows.tolist():
            steps = min(len(array[row]) for array in self.feeds.values())
            yield [{name: array[row][step] for name, array in self.feeds.items()} for step in range(steps)]

    def batches(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Yield the samples in order, ``size`` at a time; of sequences each step by itself."""
        rows = self.raw.rows if indices is None else self.raw.rows[indices]
        if self.states:
            for steps in self.take(np.arange(len(self)) if indices is None else indices).sequences():
                for feeds, _ in feed_back(self.session, steps, self.states):
                    yield Batch(feeds, None)
            return
        targets = self.raw.arrays if self.raw.targets and len(self.raw.targets) == 1 else {}
        target = next((array for name, array in targets.items() if name.startswith(TARGET)), None)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            feeds = {name: array[part] for name, array in self.feeds.items()}
            yield Batch(feeds, None if target is None else target[part])


def _fitted(array: NDArray[Any], spec: TensorSpec, where: str, signature: Signature, *, steps: bool) -> NDArray[Any]:
    """The samples of one input in its type and shape, with one axis in front for the samples.

    An axis of 1 that a sample has in front of what the network takes, or lacks, is no difference.
    """
    own = array.shape[2:] if steps else array.shape[1:]
    row = tuple(spec.shape) if signature.batch is None else tuple(spec.shape[1:])
    lead = array.shape[:2] if steps else array.shape[:1]
    tries = [own, own[1:] if own[:1] == (1,) else None, (1, *own)]
    if signature.batch is None and row[:1] == (1,) and not steps and len(signature.inputs) == 1:
        row = row[1:]  # one row a sample, as `run_in_batches` takes it
    for fitted in tries:
        if fitted is not None and _fits(fitted, row):
            return array.reshape((*lead, *fitted)).astype(_known_dtype(array, spec, where))
    raise UsageError(
        f"{where}: a sample is {array.dtype} {list(own)}, and the network takes {spec}",
        hint="give arrays of the input's type and shape; images of classes are x and y",
    )


def _fed_dtype(dtype: np.dtype[Any]) -> str:
    """The type of a PyTorch network's input for samples of a type: floats are 32 bits."""
    return "float32" if dtype.kind == "f" else str(dtype)


def _fits(own: Sequence[int], row: Sequence[int | str]) -> bool:
    return len(own) == len(row) and all(
        isinstance(want, str) or want == have for want, have in zip(row, own, strict=True)
    )


def _known_dtype(array: NDArray[Any], spec: TensorSpec, where: str) -> np.dtype[Any]:
    wanted = np.dtype(spec.dtype)
    whole = array.dtype.kind in "iub"
    if wanted.kind in "iub" and not whole:
        raise UsageError(f"{where}: samples are {array.dtype}, and the network takes {spec}", hint=f"give {spec.dtype}")
    return wanted


def read_array_samples(path: Path) -> ArraySamples | None:
    """Read an ``.npz`` of stacked arrays, or a folder of ``.npz`` files of a sample each; None of anything else."""
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files or any(entry.is_dir() for entry in path.iterdir() if not entry.name.startswith(".")):
            return None
        return _stacked([read_all_arrays(file, _LARGEST) for file in files], path.name)
    arrays = read_all_arrays(path, _LARGEST)
    counts = {name: len(array) if array.ndim else -1 for name, array in arrays.items()}
    if not arrays or len(set(counts.values())) != 1 or min(counts.values()) < 1:
        told = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "none"
        raise UsageError(f"{path}: its arrays have not all the same number of rows: {told}", hint=_HINT)
    return ArraySamples(path.name, arrays, np.arange(next(iter(counts.values())), dtype=np.int64))


def array_samples_of(given: Iterable[Any], where: str) -> ArraySamples:
    """Take the dicts of arrays that the user's code yields, a sample each. Raises UsageError for anything else."""
    if isinstance(given, Mapping):
        arrays = {str(name): np.asarray(array) for name, array in given.items()}
        rows = {len(array) if array.ndim else 0 for array in arrays.values()}
        if len(rows) != 1 or 0 in rows:
            raise UsageError(f"{where} returned arrays of unlike numbers of rows", hint=_HINT)
        return ArraySamples(where, arrays, np.arange(rows.pop(), dtype=np.int64))
    samples, held = [], 0
    for each in given:
        if not isinstance(each, Mapping):
            raise UsageError(f"{where} yields {type(each).__name__}, not a dict of arrays", hint=_HINT)
        samples.append({str(name): np.asarray(array) for name, array in each.items()})
        held += sum(array.nbytes for array in samples[-1].values())
        if held > _LARGEST:
            raise UsageError(f"{where} yields more than {_LARGEST:,} bytes", hint="yield fewer samples")
    return _stacked(samples, where)


def _stacked(samples: Sequence[Mapping[str, NDArray[Any]]], where: str) -> ArraySamples:
    """Samples of the same names, types and shapes as arrays. Raises UsageError where they are not."""
    forms = [{name: (array.dtype.str, array.shape) for name, array in sample.items()} for sample in samples]
    if not forms or not forms[0]:
        raise UsageError(f"{where} has no samples", hint=_HINT)
    if odd := next((number for number, form in enumerate(forms) if form != forms[0]), None):
        raise UsageError(
            f"{where}: sample {odd} has other names, types or shapes than the first: {_told(forms[odd])} and "
            f"{_told(forms[0])}",
            hint="pad the samples to one shape",
        )
    if any(array.dtype.kind not in "biuf" for array in samples[0].values()):
        raise UsageError(f"{where} has arrays that hold no numbers: {_told(forms[0])}", hint=_HINT)
    arrays = {name: np.stack([sample[name] for sample in samples]) for name in forms[0]}
    return ArraySamples(where, arrays, np.arange(len(samples), dtype=np.int64))


def _told(form: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {np.dtype(dtype)} {list(shape)}" for name, (dtype, shape) in form.items()) or "nothing"


def split_array_samples(found: ArraySamples | None, judged: ArraySamples | None) -> FeedSource:
    """Hold out a fifth of the samples, or judge on others; none is in both halves. Raises UsageError for one alone."""
    if found is None:
        assert judged is not None
        return FeedSource(None, judged, ())
    if judged is not None:
        known = set(judged.keys)
        fresh = np.array([key not in known for key in found.keys], np.bool_)
        if not fresh.any():
            raise UsageError(f"every sample of {found.name} is in {judged.name} too", hint="give others with --eval")
        notes = () if fresh.all() else (f"{int((~fresh).sum())} of {found.name} are in {judged.name} too: left out",)
        return FeedSource(found.take(np.flatnonzero(fresh), found.name), judged, notes)
    if len(found) < 2:
        raise UsageError(f"{found.name} has one sample only", hint="give more, or others to judge on with --eval")
    order = np.random.default_rng(0).permutation(len(found))
    held = np.sort(order[: max(1, round(HELD_OUT * len(order)))])
    rest = np.setdiff1d(np.arange(len(order)), held)
    note = f"held out 20 % of {found.name} ({len(held):,} of {len(found):,} samples), as it has no test half"
    name = found.name
    return FeedSource(
        found.take(rest, f"{name} without the held-out 20 %"), found.take(held, f"{name} held-out 20 %"), (note,)
    )
