"""Arrays for a network's inputs: their sizes, random ones, and samples run in batches of the size that it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.core import GivenInput, Session, Signature, TensorSpec, UsageError

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

_AT_ONCE = 100

__all__ = ["concat", "judged_at_once", "random_feeds", "run_in_batches", "sizes_given"]


def random_feeds(signature: Signature, sizes: Mapping[str, int], samples: int | None, seed: int) -> dict[str, Any]:
    """Return ``samples`` random samples by input name: standard normal floats; integers and booleans of 0 or 1.

    ``sizes`` has the size of each free axis but the batch. With ``samples`` = None there are as many as one run takes
    at those sizes. A network without a batch axis gets an axis of samples in front, unless that is 1 already.
    Raises UsageError where a size is missing or an input holds no numbers.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in signature.inputs:
        shape = spec.sized({**sizes, **({} if signature.batch is None else {signature.batch: samples or 1})})
        if samples is not None and signature.batch is None:
            shape = _stacked(signature, shape, samples)
        feeds[spec.name] = _drawn(rng, spec, shape)
    return feeds


def _stacked(signature: Signature, shape: tuple[int, ...], samples: int) -> tuple[int, ...]:
    """The shape of several samples of an input that has no free batch axis."""
    if signature.rows is not None or shape[:1] == (1,):
        return (samples, *shape[1:])
    return shape if samples == 1 else (samples, *shape)


def _drawn(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as error:
        raise UsageError(f"NumPy has no such type: {spec}", hint="export the network with another") from error
    if dtype == np.float32 or dtype == np.float64:
        return np.asarray(rng.standard_normal(shape, dtype.type))
    if dtype.kind in "fc":
        return np.asarray(rng.standard_normal(shape, np.float32)).astype(dtype)
    if dtype.kind in "iub":
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    raise UsageError(f"input {spec} holds no numbers", hint="give a network whose inputs are numbers")


def judged_at_once(signature: Signature, sizes: Mapping[str, int]) -> int:
    """Return how many samples are judged at a time: 100 of up to 64 x 64 pixels, fewer of larger ones, for memory."""
    shapes = signature.feeds_of({**dict.fromkeys(signature.free, 1), **sizes})
    values = max(math.prod(shape) for shape in shapes.values()) // (signature.samples or 1)
    return max(1, min(_AT_ONCE, _AT_ONCE * 3 * 64 * 64 // max(1, values)))


def run_in_batches(session: Session, feeds: Feeds, size: int) -> Outputs:
    """Run samples through ``session`` in batches that it takes; return its outputs, one row a sample.

    With a free batch axis ``size`` samples go at a time. With a fixed batch of B it is B at a time; the last batch is
    filled up by repeating its last sample, and what comes of those is cut off. Without a batch axis it is one at a
    time: an input whose array has an axis more than the network takes is indexed by it, of another the next rows are
    taken, as many as the network's first axis has.
    """
    signature = session.signature
    if signature.batch is not None:
        total = len(feeds[signature.input.name])
        slices = [{name: array[at : at + size] for name, array in feeds.items()} for at in range(0, total, size)]
        return concat([session(part) for part in slices])
    if (rows := signature.rows) is not None:
        total = len(feeds[signature.input.name])
        return concat([_run_padded(session, feeds, at, rows) for at in range(0, total, rows)])
    stacked = {s.name: np.ndim(feeds[s.name]) > len(s.shape) for s in signature.inputs}
    runs = _count_runs(signature, feeds, stacked)
    parts = [
        session({name: array[i, ...] if stacked[name] else _share(array, i, runs) for name, array in feeds.items()})
        for i in range(runs)
    ]
    if not any(stacked.values()):
        return concat(parts)
    return {name: _joined([part[name] for part in parts], all(stacked.values())) for name in parts[0]}


def count_samples(signature: Signature, feeds: Feeds) -> int:
    """Return how many samples the arrays hold, as `run_in_batches` counts them."""
    if signature.batch is not None or signature.rows is not None:
        return len(feeds[signature.input.name])
    return _count_runs(signature, feeds, {s.name: np.ndim(feeds[s.name]) > len(s.shape) for s in signature.inputs})


def first_samples(arrays: Feeds, total: int, count: int) -> dict[str, NDArray[Any]]:
    """Return the first ``count`` of ``total`` samples, each with as many rows of an array as it has.

    An array of fewer rows than samples, or a scalar, is the same for all.
    """
    rows = {name: len(array) // total if np.ndim(array) else 0 for name, array in arrays.items()}
    return {name: array[: rows[name] * count] if rows[name] else array for name, array in arrays.items()}


def one_run(signature: Signature, sizes: Mapping[str, int], feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Return what one run takes of samples: all of them where the batch is free, else the first."""
    if signature.batch is not None:
        return dict(feeds)
    shapes = signature.feeds_of(sizes)
    return {
        name: array.reshape(-1, *shapes[name][1:])[: shapes[name][0]]
        if shapes[name]
        else np.asarray(array.reshape(-1)[0])
        for name, array in feeds.items()
    }


def concat(parts: Sequence[Outputs]) -> Outputs:
    """Join the arrays of each name along their first axis; scalars become an array of one entry a part."""
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}


def _run_padded(session: Session, feeds: Feeds, at: int, rows: int) -> Outputs:
    part = {name: array[at : at + rows] for name, array in feeds.items()}
    held = len(next(iter(part.values())))
    if held == rows:
        return session(part)
    full = {name: np.concatenate([array, np.repeat(array[-1:], rows - held, axis=0)]) for name, array in part.items()}
    return {
        name: made[: len(made) // rows * held] if made.ndim and len(made) % rows == 0 else made
        for name, made in session(full).items()
    }


def _joined(made: Sequence[NDArray[Any]], new_axis: bool) -> NDArray[Any]:
    """One output of all runs; an axis of 1 that the network itself has in front counts the samples."""
    return np.concatenate(made) if made[0].shape[:1] == (1,) and not new_axis else np.stack(made)


def _count_runs(signature: Signature, feeds: Feeds, stacked: Mapping[str, bool]) -> int:
    """The number of runs that the arrays are for, by the first input that tells it."""
    for spec in signature.inputs:
        if stacked[spec.name]:
            return len(feeds[spec.name])
        if spec.shape and isinstance(spec.shape[0], int) and spec.shape[0] > 0:
            return len(feeds[spec.name]) // spec.shape[0]
    return 1


def _share(array: NDArray[Any], index: int, runs: int) -> NDArray[Any]:
    """The rows of run ``index`` of ``runs``; a scalar is the same for all."""
    if not array.ndim:
        return array
    rows = len(array) // runs
    return array[index * rows : (index + 1) * rows]


def sizes_given(signature: Signature, given: Sequence[GivenInput]) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """Return the usual sizes of free axes that ``--input`` gives, and their least and most where it gives those.

    Raises UsageError where it does not fit the network, or gives one axis two sizes.
    """
    sizes: dict[str, int] = {}
    ranges: dict[str, tuple[int, int]] = {}
    for each in given:
        spec = _given_input(signature, each)
        axes = spec.shape[len(spec.shape) - len(each.shape) :] if len(each.shape) <= len(spec.shape) else ()
        fits = axes and len(spec.shape) - len(axes) <= 1 and each.dtype in (None, spec.dtype)
        if not fits or any(_known(axis, sizes, size) != size for axis, size in zip(axes, each.shape, strict=True)):
            raise UsageError(
                f"--input {spec.name} is {'x'.join(map(str, each.shape))}{f':{each.dtype}' if each.dtype else ''}, "
                f"and the network takes {spec}",
                hint="leave out --input, or give the sizes of one sample",
            )
        for axis, size, (least, most) in zip(axes, each.shape, each.bounds, strict=True):
            if isinstance(axis, str):
                sizes[axis] = size
                if least < most:
                    ranges[axis] = (least, most)
    return sizes, ranges


def _known(axis: int | str, sizes: Mapping[str, int], default: int) -> int:
    return axis if isinstance(axis, int) else sizes.get(axis, default)


def _given_input(signature: Signature, given: GivenInput) -> TensorSpec:
    """Return the input that ``given`` names; without a name, the only one."""
    names = [spec.name for spec in signature.inputs]
    if given.name is None and len(names) == 1:
        return signature.input
    if given.name not in names:
        raise UsageError(
            f"--input names {given.name or 'no input'}, and the network's inputs are {', '.join(names)}",
            hint=f"write --input {names[0]}=…",
        )
    return signature.inputs[names.index(given.name)]
