"""Arrays for a network's inputs: their sizes, random ones, and samples in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from networks import FIXED, LOOSE, TWO

from compressor.core import GivenInput, Signature, TensorSpec, UsageError
from compressor.feeds import (
    concat,
    count_samples,
    first_samples,
    one_run,
    random_feeds,
    run_in_batches,
    sizes_given,
)  # fmt: skip


class Recorder:
    """A session that keeps the shapes it was fed."""

    def __init__(self, signature: Signature, run: Callable[[Any], Any]) -> None:
        self.signature, self.run = signature, run
        self.seen: list[dict[str, tuple[int, ...]]] = []

    def __call__(self, feeds: Any) -> Any:
        self.seen.append({name: array.shape for name, array in feeds.items()})
        return self.run(feeds)


def test_random_feeds_have_the_types_and_shapes_of_the_inputs() -> None:
    feeds = random_feeds(TWO, {"length": 6}, 5, seed=0)
    assert {name: (str(a.dtype), a.shape) for name, a in feeds.items()} == {
        "features": ("float32", (5, 4)), "tokens": ("int64", (5, 6)),
    }  # fmt: skip
    assert set(np.unique(feeds["tokens"])) == {0, 1}
    again = random_feeds(TWO, {"length": 6}, 5, seed=0)
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
    assert not np.array_equal(random_feeds(TWO, {"length": 6}, 5, seed=1)["features"], feeds["features"])


def test_random_feeds_of_one_run_have_the_usual_sizes() -> None:
    for signature, sizes in ((TWO, {"batch": 1, "length": 6}), (FIXED, {}), (LOOSE, {})):
        feeds = random_feeds(signature, sizes, None, seed=0)
        assert {name: array.shape for name, array in feeds.items()} == signature.feeds_of(sizes)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bool", "uint8", "int32", "complex64"])
def test_every_type_of_numbers_can_be_drawn(dtype: str) -> None:
    signature = Signature((TensorSpec("x", dtype, ("batch", 3)),), (TensorSpec("y", dtype, ("batch", 3)),))
    assert random_feeds(signature, {}, 2, seed=0)["x"].dtype == dtype


def test_what_is_no_number_or_has_no_size_is_refused() -> None:
    for dtype in ("object", "bfloat17"):
        with pytest.raises(UsageError):
            random_feeds(Signature((TensorSpec("x", dtype, (1,)),), ()), {}, 1, seed=0)
    with pytest.raises(UsageError, match="axis 'length'") as caught:
        random_feeds(TWO, {}, 1, seed=0)
    assert caught.value.hint


def test_a_free_batch_goes_in_parts_of_the_size() -> None:
    session = Recorder(TWO, lambda feeds: {"scores": feeds["features"], "best": feeds["tokens"][:, 0]})
    feeds = random_feeds(TWO, {"length": 6}, 5, seed=0)
    made = run_in_batches(session, feeds, 2)
    assert [shapes["features"][0] for shapes in session.seen] == [2, 2, 1]
    np.testing.assert_array_equal(made["scores"], feeds["features"])


@pytest.mark.parametrize("samples", [1, 3, 7])
def test_a_fixed_batch_is_filled_up_and_cut_off(samples: int) -> None:
    session = Recorder(FIXED, lambda feeds: {"y": feeds["x"], "pairs": np.repeat(feeds["x"], 2, axis=0)})
    feeds = random_feeds(FIXED, {}, samples, seed=0)
    made = run_in_batches(session, feeds, 100)
    assert {shapes["x"] for shapes in session.seen} == {(3, 4)}
    np.testing.assert_array_equal(made["y"], feeds["x"])
    np.testing.assert_array_equal(made["pairs"], np.repeat(feeds["x"], 2, axis=0))


def test_without_a_batch_axis_samples_go_one_at_a_time() -> None:
    session = Recorder(LOOSE, lambda feeds: {"y": feeds["x"] * feeds["gain"], "peak": np.max(feeds["x"])})
    feeds = random_feeds(LOOSE, {}, 4, seed=0)
    assert {name: array.shape for name, array in feeds.items()} == {"x": (4, 4), "gain": (4,)}
    made = run_in_batches(session, feeds, 100)
    assert session.seen == [{"x": (1, 4), "gain": ()}] * 4
    np.testing.assert_allclose(made["y"], feeds["x"] * feeds["gain"][:, np.newaxis])
    np.testing.assert_array_equal(made["peak"], feeds["x"].max(axis=1))


def test_inputs_of_several_rows_a_run() -> None:
    """Four boxes of an image of its own: a run takes the next four."""
    signature = Signature(
        (TensorSpec("image", "float32", (1, 2)), TensorSpec("boxes", "float32", (4, 3))),
        (TensorSpec("y", "float32", (4,)),),
    )
    session = Recorder(signature, lambda feeds: {"y": feeds["boxes"].sum(axis=1)})
    feeds = {"image": np.zeros((2, 2), np.float32), "boxes": np.arange(24, dtype=np.float32).reshape(8, 3)}
    made = run_in_batches(session, feeds, 1)
    assert session.seen == [{"image": (1, 2), "boxes": (4, 3)}] * 2
    np.testing.assert_array_equal(made["y"], feeds["boxes"].sum(axis=1))
    assert count_samples(signature, feeds) == 2
    first = first_samples(feeds, 2, 1)
    assert {name: array.shape for name, array in first.items()} == {"image": (1, 2), "boxes": (4, 3)}
    np.testing.assert_array_equal(run_in_batches(session, first, 1)["y"], first_samples(made, 2, 1)["y"])
    assert one_run(signature, {}, feeds)["boxes"].shape == (4, 3)


def test_the_first_samples_of_other_batches() -> None:
    feeds = random_feeds(TWO, {"length": 6}, 5, seed=0)
    assert count_samples(TWO, feeds) == 5
    assert first_samples(feeds, 5, 2)["tokens"].shape == (2, 6)
    assert one_run(TWO, {}, feeds)["tokens"].shape == (5, 6)
    loose = random_feeds(LOOSE, {}, 4, seed=0)
    assert count_samples(LOOSE, loose) == 4
    assert {name: array.shape for name, array in one_run(LOOSE, {}, loose).items()} == {"x": (1, 4), "gain": ()}
    assert first_samples({"same": np.zeros(1), "scalar": np.float32(1)}, 4, 2)["same"].shape == (1,)


def test_outputs_are_joined_by_name() -> None:
    joined = concat([{"a": np.zeros((2, 3)), "b": np.float32(1)}, {"a": np.ones((1, 3)), "b": np.float32(2)}])
    assert joined["a"].shape == (3, 3)
    assert joined["b"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("texts", "sizes", "ranges"),
    [
        (["tokens=7"], {"length": 7}, {}),
        (["tokens=2..7..9:int64"], {"length": 7}, {"length": (2, 9)}),
        (["features=4", "tokens=7"], {"length": 7}, {}),
        (["features=5x4"], {"batch": 5}, {}),
    ],
)
def test_sizes_that_are_given_are_of_axes_by_name(texts: Any, sizes: Any, ranges: Any) -> None:
    assert sizes_given(TWO, GivenInput.parse_all(texts)) == (sizes, ranges)


@pytest.mark.parametrize(
    "texts",
    [["7"], ["words=7"], ["tokens=7:int32"], ["features=5"], ["features=1x2x4"], ["features=2x4", "tokens=3x7"]],
)
def test_sizes_that_do_not_fit_the_network(texts: Any) -> None:
    with pytest.raises(UsageError) as caught:
        sizes_given(TWO, GivenInput.parse_all(texts))
    assert caught.value.hint
