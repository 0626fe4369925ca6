"""Arrays by input name as data: files, folders, code, labels, states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sessions import FeedsSession

from compressor.core import Signature, TensorSpec, UsageError
from compressor.data import FeedSource, Source, feed_back, load_data

TWO = Signature(
    (TensorSpec("left", "float32", ("batch", 4)), TensorSpec("right", "int64", ("batch", "length"))),
    (TensorSpec("out", "float32", ("batch", 2)),),
)
QUIET = FeedsSession(TWO, lambda feeds: {"out": np.zeros((len(feeds["left"]), 2), np.float32)})


def arrays(count: int = 10) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        "left": rng.standard_normal((count, 4)),  # float64, as NumPy makes it
        "right": rng.integers(0, 9, (count, 7)).astype(np.int32),
    }


def load(source: str | Path, evaluate: str | Path | None = None) -> FeedSource:
    found = load_data(str(source), evaluate=None if evaluate is None else str(evaluate))
    assert isinstance(found, FeedSource)
    return found


def test_stacked_arrays_are_split_and_fed_in_the_networks_types(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", **arrays())
    source = load(tmp_path / "all.npz")
    assert source.train is not None
    assert (len(source.train), len(source.evaluate), source.targets) == (8, 2, None)
    assert source.sizes(TWO) == {"length": 7}
    data = source.prepare_feeds(TWO, QUIET)
    batch = next(data.evaluate.batches(5))
    assert {name: (str(a.dtype), a.shape) for name, a in batch.feeds.items()} == {
        "left": ("float32", (2, 4)),
        "right": ("int64", (2, 7)),
    }
    assert set(source.train.keys).isdisjoint(source.evaluate.keys)


def test_a_folder_and_code_hold_the_same_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "each").mkdir()
    held = arrays()
    for row in range(10):
        np.savez(tmp_path / "each" / f"{row}.npz", **{name: array[row] for name, array in held.items()})
    np.savez(tmp_path / "all.npz", **held)
    (tmp_path / "made_of_arrays.py").write_text(
        "import numpy as np\ndef samples(path):\n"
        "    held = np.load(path)\n    for row in range(10):\n        yield {name: held[name][row] for name in held}\n"
    )
    monkeypatch.chdir(tmp_path)
    fingerprints = {
        load(source).evaluate.fingerprint for source in ("each", "all.npz", "made_of_arrays:samples('all.npz')")
    }
    assert len(fingerprints) == 1


def test_a_class_number_makes_labels_and_other_targets_keep_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "labelled.npz", **arrays(), target=np.arange(10) % 3)
    labelled = load(tmp_path / "labelled.npz")
    assert (labelled.targets, labelled.classes) == ("labels", ("0", "1", "2"))
    split = labelled.prepare_feeds(TWO, QUIET).evaluate
    assert split.labels.tolist() == next(split.batches(9)).targets.tolist()  # type: ignore[union-attr]
    np.savez(tmp_path / "boxes.npz", **arrays(), target_boxes=np.zeros((10, 5, 4)), target_counts=np.zeros((10, 1)))
    boxes = load(tmp_path / "boxes.npz")
    assert boxes.targets is None
    assert sorted(boxes.prepare_feeds(TWO, QUIET).evaluate.targets) == ["target_boxes", "target_counts"]


def test_samples_of_both_halves_are_judged_on_alone(tmp_path: Path) -> None:
    held = arrays()
    np.savez(tmp_path / "all.npz", **held)
    np.savez(tmp_path / "some.npz", **{name: array[:4] for name, array in held.items()})
    source = load(tmp_path / "all.npz", tmp_path / "some.npz")
    assert source.train is not None
    assert (len(source.train), len(source.evaluate)) == (6, 4)
    assert "left out" in source.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": None}, "the samples have no left, and no output has its type and shape"),
        ({"more": np.zeros((10, 2))}, "the network takes left, right"),
        ({"left": np.zeros((10, 5))}, r"odd.npz.*a sample is float64 \[5\], and the network takes left float32"),
        ({"right": np.zeros((10, 7))}, "samples are float64, and the network takes right int64"),
        ({"left": np.zeros((9, 4))}, "not all the same number of rows"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    held = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    np.savez(tmp_path / "odd.npz", **held)
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "odd.npz").prepare_feeds(TWO, QUIET)


def test_samples_of_several_shapes_are_told(tmp_path: Path) -> None:
    for row, length in enumerate((7, 7, 8)):
        np.savez(tmp_path / f"{row}.npz", left=np.zeros(4), right=np.zeros(length, np.int64))
    with pytest.raises(UsageError, match="sample 2 has other names, types or shapes") as caught:
        load(tmp_path)
    assert "pad" in (caught.value.hint or "")


def test_images_and_labels_stay_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=(np.arange(640) % 251).astype(np.uint8).reshape(10, 8, 8), y=np.arange(10) % 2)
    assert isinstance(load_data(str(tmp_path / "images.npz")), Source)


# -- states --------------------------------------------------------------------------------------

SUM = Signature(
    (TensorSpec("frame", "float32", (1, 3)), TensorSpec("h", "float32", (1, 3)), TensorSpec("c", "float32", (1, 3))),
    (
        TensorSpec("mean", "float32", (1, 1)),
        TensorSpec("c_out", "float32", (1, 3)),
        TensorSpec("h_out", "float32", (1, 3)),
    ),
)


def running(feeds: Any) -> dict[str, Any]:
    """``h`` sums the frames, ``c`` counts them."""
    h, c = feeds["h"] + feeds["frame"], feeds["c"] + 1
    return {"mean": (h / c).mean(keepdims=True), "c_out": c, "h_out": h}


@pytest.fixture
def spoken(tmp_path: Path) -> FeedSource:
    np.savez(tmp_path / "spoken.npz", frame=np.arange(5 * 4 * 3, dtype=np.float32).reshape(5, 4, 1, 3))
    return load(tmp_path / "spoken.npz")


def test_states_are_fed_back_by_shape_and_name(spoken: FeedSource) -> None:
    session = FeedsSession(SUM, running)
    data = spoken.prepare_feeds(SUM, session)
    assert data.evaluate.states == {"h": "h_out", "c": "c_out"}
    assert "h_out -> h" in data.notes[-1]
    (steps,) = data.evaluate.sequences()
    assert len(steps) == 4
    last = list(feed_back(session, steps, data.evaluate.states))[-1]
    assert last[0]["c"].tolist() == [[3.0, 3.0, 3.0]]
    np.testing.assert_allclose(last[1]["mean"], np.mean([step["frame"] for step in steps]))
    assert len(list(data.evaluate.batches(8))) == 4  # single steps, to calibrate on


def test_a_state_that_nothing_makes_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "part.npz", h=np.zeros((5, 4, 1, 3), np.float32), c=np.zeros((5, 4, 1, 3), np.float32))
    lone = Signature(
        (*SUM.inputs[1:], TensorSpec("extra", "float32", (1, 9))), (TensorSpec("mean", "float32", (1, 1)),)
    )
    with pytest.raises(UsageError, match="the samples have no extra, and no output has its type and shape"):
        load(tmp_path / "part.npz").prepare_feeds(lone, FeedsSession(lone, running))
