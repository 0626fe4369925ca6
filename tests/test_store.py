"""A run's folder: one run at a time, one set of inputs, and everything in it whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressor.core import Artifact, InputSpec, Model, Normalization, OnnxModel, Record, Result, UsageError
from compressor.store import Store, digest, file_sha256, identity, write_text

INPUTS = {"model": "aa", "seed": 0, "data": ["x", None], "target": {"name": "host", "quirks": []}}


def claim(store: Store, inputs: dict[str, Any] = INPUTS, *, fresh: bool = False) -> None:
    with store.claimed(inputs, fresh=fresh):
        pass


def contents(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


# -- whose folder it is -----------------------------------------------------------------------


def test_the_same_inputs_go_on(store: Store) -> None:
    claim(store)
    claim(store, json.loads(json.dumps(INPUTS)))
    claim(store, {**INPUTS, "data": ("x", None)})


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, ["seed"]), ({"target": {"name": "host", "quirks": ["q"]}, "data": None}, ["data", "target"])],
)
def test_changed_inputs_are_refused_by_name(change: dict[str, Any], named: list[str], store: Store) -> None:
    claim(store)
    before = (store.folder / "inputs.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        claim(store, {**INPUTS, **change})
    assert all(name in caught.value.what for name in named)
    assert not any(name in caught.value.what.partition(":")[2] for name in INPUTS.keys() - set(named))
    assert "--fresh" in (caught.value.mend or "")
    assert (store.folder / "inputs.json").read_bytes() == before


def test_fresh_starts_over(store: Store) -> None:
    claim(store)
    for name in ("cache/lower-1", "bundle", "teacher", "logs"):
        (store.folder / name).mkdir(parents=True)
        (store.folder / name / "file").touch()
    for name in ("report.json", "report.html", "resolved.toml"):
        (store.folder / name).touch()
    (store.folder / "notes.txt").write_text("the user's own")
    claim(store, {**INPUTS, "seed": 1}, fresh=True)
    assert contents(store.folder) == [".lock", "inputs.json", "notes.txt"]
    claim(store, {**INPUTS, "seed": 1})


def test_fresh_in_a_new_folder_is_no_error(store: Store) -> None:
    claim(store, fresh=True)


def test_a_second_run_is_refused_while_the_first_lasts(store: Store) -> None:
    code = "import sys; from test_store import *; claim(Store(Path(sys.argv[1])), fresh=True)"
    with store.claimed(INPUTS, fresh=False):
        (store.folder / "report.json").touch()
        with pytest.raises(UsageError, match="another run is using"):
            claim(Store(store.folder))
        other = subprocess.run(
            [sys.executable, "-c", code, str(store.folder)], capture_output=True, text=True, cwd=Path(__file__).parent
        )
        assert "another run is using" in other.stderr
        assert (store.folder / "report.json").exists(), "not even --fresh touches it"
    claim(store)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_holds_something_else_is_left_untouched(fresh: bool, store: Store) -> None:
    (store.folder / "thesis").mkdir(parents=True)
    (store.folder / "thesis" / "chapter.tex").write_text("1")
    before = contents(store.folder)
    with pytest.raises(UsageError, match="something other than a run"):
        claim(store, fresh=fresh)
    assert contents(store.folder) == before


@pytest.mark.parametrize("text", ["[1]", "{}", "{", '{"seed": 0}'])
def test_a_folder_with_an_inputs_json_of_its_own_is_left_untouched(text: str, store: Store) -> None:
    (store.folder / "cache").mkdir(parents=True)
    (store.folder / "inputs.json").write_text(text)
    with pytest.raises(UsageError, match="something other than a run"):
        claim(store, fresh=True)
    assert contents(store.folder) == ["cache", "inputs.json"]


def test_asking_touches_nothing(store: Store) -> None:
    store.admit(INPUTS, fresh=False)
    assert not store.folder.exists()
    claim(store)
    before = contents(store.folder)
    store.admit({**INPUTS, "seed": 1}, fresh=True)
    with pytest.raises(UsageError, match="seed changed"):
        store.admit({**INPUTS, "seed": 1}, fresh=False)
    assert contents(store.folder) == before


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".inputs.json.partial"]])
def test_an_empty_folder_or_one_of_a_run_killed_at_once_is_taken(left: list[str], store: Store) -> None:
    store.folder.mkdir()
    for name in left:
        (store.folder / name).write_text("{")
    claim(store)
    assert json.loads((store.folder / "inputs.json").read_text()) == INPUTS


def test_a_run_killed_while_starting_over_can_be_started_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(store)
    (store.folder / "report.json").touch()
    (store.folder / "resolved.toml").touch()
    unlink = Path.unlink
    for survived in range(1, 4):

        def dying(path: Path, missing_ok: bool = False, counter: list[int] = [survived]) -> None:  # noqa: B006
            if not counter[0]:
                raise KeyboardInterrupt
            counter[0] -= 1
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", dying)
        with pytest.raises(KeyboardInterrupt):
            claim(store, {**INPUTS, "seed": 1}, fresh=True)
    monkeypatch.undo()
    claim(store, {**INPUTS, "seed": 1}, fresh=True)


def test_what_cannot_be_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (file, file / "below", Path("/proc/compress-run"), tmp_path / ("n" * 300)):
        with pytest.raises(UsageError, match="cannot write to") as caught:
            claim(Store(place))
        assert "-o" in (caught.value.mend or "")
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_usage_error(store: Store) -> None:
    store.folder.mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot write to"):
        claim(store)


# -- passes -----------------------------------------------------------------------------------


def artifact(folder: Path) -> Artifact:
    return Artifact(
        Model(
            "cifar-resnet", {"depths": [1, 1, 1]}, folder / "teacher" / "m.safetensors", "ab", 1, 2, 10,
            InputSpec(3, 32, 32), Normalization("unit", 1 / 255, (0.0,), (1.0,)),
        )
    )  # fmt: skip


def lowered(store: Store, key: str = "k" * 64) -> Result:
    """What a pass would do: it writes its files and hands back the artifact with them."""
    with store.workdir("lower", key) as workdir:
        reference = OnnxModel(workdir / "teacher.onnx", "cd", "fp32", 21)
        reference.path.write_bytes(b"fp32")
        onnx = OnnxModel(workdir / "model.onnx", "ef", "fp16", 21, reference)
        onnx.path.write_bytes(b"fp16")
        made = dataclasses.replace(artifact(store.folder), reference=reference, onnx=onnx)
        result = Result(made, {"bytes": 4, "psnr": 33.5}, ("careful",))
        record = Record("lower", {"precision": "fp16"}, 1.5, False, result.metrics, result.warnings)
        store.finish("lower", key, frozenset({"reference", "onnx"}), result, record)
    return result


def test_a_finished_pass_is_answered_from_the_cache(store: Store) -> None:
    result = lowered(store)
    kept = store.finished("lower", "k" * 64, artifact(store.folder))
    assert kept is not None
    assert kept[0] == result
    assert kept[0].artifact.onnx is not None
    assert [m.precision for m in kept[0].artifact.onnx.chain()] == ["fp32", "fp16"]
    assert kept[1] == Record("lower", {"precision": "fp16"}, 1.5, False, {"bytes": 4, "psnr": 33.5}, ("careful",))


def test_another_key_or_pass_is_not(store: Store) -> None:
    lowered(store)
    assert store.finished("lower", "j" * 64, artifact(store.folder)) is None
    assert store.finished("build", "k" * 64, artifact(store.folder)) is None


def test_only_the_slots_that_it_gives_are_taken_from_the_cache(store: Store) -> None:
    lowered(store)
    now = artifact(store.folder)
    now = dataclasses.replace(now, teacher=dataclasses.replace(now.teacher, family="other"))
    kept = store.finished("lower", "k" * 64, now)
    assert kept is not None
    assert kept[0].artifact.teacher.family == "other"


def test_a_moved_folder_still_answers(store: Store, tmp_path: Path) -> None:
    lowered(store)
    moved = Store(tmp_path / "elsewhere" / "run")
    moved.folder.parent.mkdir()
    shutil.move(store.folder, moved.folder)
    kept = moved.finished("lower", "k" * 64, artifact(moved.folder))
    assert kept is not None
    onnx = kept[0].artifact.onnx
    assert onnx is not None
    assert onnx.path.read_bytes() == b"fp16"
    assert onnx.path.is_relative_to(moved.folder)
    assert str(store.folder) not in "".join(p.read_text() for p in moved.folder.rglob("*.json"))


def test_a_pass_that_was_broken_off_is_done_again(store: Store) -> None:
    with store.workdir("lower", "k" * 64) as workdir:
        (workdir / "half.onnx").write_bytes(b"f")
    assert store.finished("lower", "k" * 64, artifact(store.folder)) is None
    with store.workdir("lower", "k" * 64) as workdir:
        assert list(workdir.iterdir()) == []


def test_a_pass_that_failed_is_done_again(store: Store) -> None:
    with pytest.raises(RuntimeError), store.workdir("lower", "k" * 64):
        raise RuntimeError
    assert store.finished("lower", "k" * 64, artifact(store.folder)) is None


@pytest.mark.parametrize("gone", ["model.onnx", "teacher.onnx"])
def test_a_pass_whose_files_were_deleted_is_done_again(gone: str, store: Store) -> None:
    result = lowered(store)
    assert result.artifact.onnx is not None
    result.artifact.onnx.path.with_name(gone).unlink()
    assert store.finished("lower", "k" * 64, artifact(store.folder)) is None


# -- values -----------------------------------------------------------------------------------


def test_a_memo_is_computed_once_a_key(store: Store) -> None:
    calls: list[int] = []

    def compute() -> Any:
        calls.append(1)
        return {"value": [0.1 + 0.2, None, "x"]}

    first = store.memo("metric", ["a", 1], compute)
    assert store.memo("metric", ["a", 1], compute) == first == {"value": [0.1 + 0.2, None, "x"]}
    assert len(calls) == 1
    store.memo("metric", ["a", 2], compute)
    store.memo("other", ["a", 1], compute)
    assert len(calls) == 3


def test_a_memo_that_failed_is_not_kept(store: Store) -> None:
    with pytest.raises(RuntimeError):
        store.memo("metric", 1, lambda: (_ for _ in ()).throw(RuntimeError()))
    assert store.memo("metric", 1, lambda: 5) == 5


def test_publish_replaces_a_folder_whole(store: Store, tmp_path: Path) -> None:
    store.folder.mkdir()
    for number in ("1", "2"):
        made = tmp_path / number
        (made / "deep").mkdir(parents=True)
        (made / f"only-{number}").write_text(number)
        (made / "deep" / "model.onnx").write_text(number)
        place = store.publish(made, "bundle")
        assert place == store.folder / "bundle"
        assert contents(place) == ["deep", "deep/model.onnx", f"only-{number}"]
        assert (place / "deep" / "model.onnx").read_text() == number
        assert contents(made) == contents(place), "the source stays"
    assert [p.name for p in store.folder.iterdir()] == ["bundle"], "nothing temporary stays"


def test_a_copy_that_fails_leaves_what_stood_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.onnx").write_text("1")
    store.folder.mkdir()
    store.publish(made, "bundle")

    def full(source: str, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OSError, match="No space"):
        store.publish(made, "bundle")
    assert (store.folder / "bundle" / "model.onnx").read_text() == "1"
    assert [p.name for p in store.folder.iterdir()] == ["bundle"]


def test_text_is_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_text(file, "1")
    write_text(file, "ä")
    assert file.read_text(encoding="utf-8") == "ä"
    assert contents(tmp_path) == ["a.json"]


def test_digests_and_hashes(tmp_path: Path) -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))
    (tmp_path / "f").write_bytes(b"")
    assert file_sha256(tmp_path / "f").startswith("e3b0c442")


def test_identity_leaves_out_places_and_what_the_device_changed(tmp_path: Path) -> None:
    assert identity(artifact(tmp_path / "a")) == identity(artifact(tmp_path / "b"))
    other = dataclasses.replace(artifact(tmp_path), onnx=OnnxModel(tmp_path, "", "fp32", 21))
    assert identity(artifact(tmp_path)) != identity(other)
