"""A run's folder: one run at a time, one set of inputs, and everything in it whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressor.atomic import write
from compressor.core import (
    Artifact,
    Bundle,
    CompressError,
    Exit,
    Model,
    Normalization,
    OnnxModel,
    Record,
    Result,
    Signature,
    TensorSpec,
    TorchSource,
    UsageError,
)
from compressor.store import Store, digest, file_sha256, identity

INPUTS = {"model": "aa", "seed": 0, "data": ["x", None], "target": {"name": "host", "quirks": []}}


def claim(store: Store, inputs: dict[str, Any] = INPUTS, *, fresh: bool = False) -> None:
    with store.claimed(inputs, fresh=fresh):
        pass


def contents(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


@pytest.fixture
def begun(store: Store) -> Store:
    claim(store)
    return store


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
    assert "--fresh" in (caught.value.hint or "")
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
    assert contents(store.folder) == [".lock", "cache", "inputs.json", "notes.txt"]
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
    store.check_inputs(INPUTS, fresh=False)
    assert not store.folder.exists()
    claim(store)
    before = contents(store.folder)
    store.check_inputs({**INPUTS, "seed": 1}, fresh=True)
    with pytest.raises(UsageError, match="seed changed"):
        store.check_inputs({**INPUTS, "seed": 1}, fresh=False)
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


def test_a_run_killed_while_starting_over_leaves_no_half_deleted_bundle(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(store)
    (store.folder / "bundle").mkdir()
    (store.folder / "bundle" / "manifest.json").touch()

    def dying(path: Path, **_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dying)
        with pytest.raises(KeyboardInterrupt):
            claim(store, fresh=True)
    assert not (store.folder / "bundle").exists()
    claim(store, fresh=True)
    assert contents(store.folder) == [".lock", "cache", "inputs.json"]


def test_what_killed_runs_left_half_written_is_cleared_away(store: Store) -> None:
    claim(store)
    (store.folder / ".bundle.partial" / "new").mkdir(parents=True)
    (store.folder / ".bundle.partial" / "new" / ".model.onnx.partial").touch()
    (store.folder / "cache" / "lower-1").mkdir()
    (store.folder / "cache" / "lower-1" / ".model.onnx.partial").touch()
    (store.folder / "cache" / "lower-1" / "model.onnx").touch()
    (store.folder / "mine.partial").touch()
    claim(store)
    kept = [".lock", "cache", "cache/lower-1", "cache/lower-1/model.onnx", "inputs.json", "mine.partial"]
    assert contents(store.folder) == kept


def test_who_comes_second_is_refused_before_any_work(store: Store) -> None:
    store.check_usable()
    assert not store.folder.exists()
    with store.claimed(INPUTS, fresh=False):
        with pytest.raises(UsageError, match="another run is using"):
            Store(store.folder).check_usable()
        Store(store.folder.with_name("other")).check_usable()
    store.check_usable()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_named(number: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(UsageError, match=f"has no file locks: {os.strerror(number)}") as caught:
        claim(store)
    assert "-o" in (caught.value.hint or "")


@pytest.mark.parametrize("error", [None, RuntimeError("some library's word for it"), FileNotFoundError(2, "gone")])
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_folder_that_goes_away_during_a_run_is_a_usage_error(how: str, error: Exception | None, store: Store) -> None:
    def lose_it(error: Exception | None) -> None:
        away = store.folder.rename(store.folder.with_name("away"))
        if how == "deleted":
            shutil.rmtree(away)
        elif how == "replaced":
            claim(Store(store.folder))
        if error is not None:
            raise error

    with pytest.raises(UsageError, match="was deleted or moved"), store.claimed(INPUTS, fresh=False):
        lose_it(error)


def test_a_disk_that_fills_up_during_a_run_is_named(store: Store) -> None:
    full = pytest.raises(CompressError, match=f"the disk is full: {store.folder}")
    with full as caught, store.claimed(INPUTS, fresh=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.code == Exit.INTERNAL


def test_what_cannot_be_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    names = [file, file / "below", Path("/proc/compress-run"), tmp_path / ("n" * 300), tmp_path / "caf\udce9"]
    for place in names:
        with pytest.raises(UsageError, match="cannot write to") as caught:
            claim(Store(place))
        assert "-o" in (caught.value.hint or "")
        if place.parts[1] != "proc":  # which lets root look as if it could write
            with pytest.raises(UsageError, match="cannot write to"):
                Store(place).check_usable()
    assert file.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_usage_error(store: Store) -> None:
    store.folder.mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot write to"):
        claim(store)


# -- passes -----------------------------------------------------------------------------------


def artifact(folder: Path) -> Artifact:
    return Artifact(
        Model(
            TorchSource("cifar-resnet", {"depths": [1, 1, 1]}, folder / "teacher" / "m.safetensors"), None, "ab", 1, 2,
            Signature(
                (TensorSpec("input", "float32", ("batch", 3, "height", "width")),),
                (TensorSpec("output", "float32", ("batch", 10)),),
            ),
            {"batch": 1, "height": 32, "width": 32}, {"height": (16, 64)},
            Normalization("unit", 1 / 255, (0.0,), (1.0,)),
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


def test_a_finished_pass_is_answered_from_the_cache(begun: Store) -> None:
    result = lowered(begun)
    kept = begun.finished("lower", "k" * 64, artifact(begun.folder))
    assert kept is not None
    assert kept[0] == result
    assert kept[0].artifact.onnx is not None
    assert [m.precision for m in kept[0].artifact.onnx.chain()] == ["fp32", "fp16"]
    assert kept[1] == Record("lower", {"precision": "fp16"}, 1.5, False, {"bytes": 4, "psnr": 33.5}, ("careful",))


def test_another_key_or_pass_is_not(begun: Store) -> None:
    lowered(begun)
    assert begun.finished("lower", "j" * 64, artifact(begun.folder)) is None
    assert begun.finished("build", "k" * 64, artifact(begun.folder)) is None


def test_only_the_slots_that_it_gives_are_taken_from_the_cache(begun: Store) -> None:
    lowered(begun)
    now = artifact(begun.folder)
    now = dataclasses.replace(now, teacher=dataclasses.replace(now.teacher, sha256="other"))
    kept = begun.finished("lower", "k" * 64, now)
    assert kept is not None
    assert kept[0].artifact.teacher.sha256 == "other"


def test_a_network_comes_back_from_the_cache_as_it_was(begun: Store) -> None:
    with begun.workdir("distill", "k" * 64) as workdir:
        teacher = artifact(begun.folder).teacher
        student = teacher.with_weights(workdir / "student.safetensors", "cd")
        student.torch.weights.write_bytes(b"weights")
        made = dataclasses.replace(artifact(begun.folder), student=student)
        record = Record("distill", {}, 1.5, False, {}, ())
        begun.finish("distill", "k" * 64, frozenset({"student"}), Result(made), record)
    kept = begun.finished("distill", "k" * 64, artifact(begun.folder))
    assert kept is not None
    assert kept[0].artifact.student == student


def test_a_moved_folder_still_answers(begun: Store, tmp_path: Path) -> None:
    lowered(begun)
    moved = Store(tmp_path / "elsewhere" / "run")
    moved.folder.parent.mkdir()
    shutil.move(begun.folder, moved.folder)
    kept = moved.finished("lower", "k" * 64, artifact(moved.folder))
    assert kept is not None
    onnx = kept[0].artifact.onnx
    assert onnx is not None
    assert onnx.path.read_bytes() == b"fp16"
    assert onnx.path.is_relative_to(moved.folder)
    assert str(begun.folder) not in "".join(p.read_text() for p in moved.folder.rglob("*.json"))


def test_a_pass_that_was_broken_off_is_done_again(begun: Store) -> None:
    with begun.workdir("lower", "k" * 64) as workdir:
        (workdir / "half.onnx").write_bytes(b"f")
    assert begun.finished("lower", "k" * 64, artifact(begun.folder)) is None
    with begun.workdir("lower", "k" * 64) as workdir:
        assert list(workdir.iterdir()) == []


def test_a_pass_that_failed_is_done_again(begun: Store) -> None:
    with pytest.raises(RuntimeError), begun.workdir("lower", "k" * 64):
        raise RuntimeError
    assert begun.finished("lower", "k" * 64, artifact(begun.folder)) is None


@pytest.mark.parametrize("name", ["model.onnx", "teacher.onnx", "result.json"])
@pytest.mark.parametrize("harm", ["deleted", "emptied", "cut", "changed"])
def test_a_pass_whose_files_are_not_as_it_wrote_them_is_done_again(harm: str, name: str, begun: Store) -> None:
    result = lowered(begun)
    assert result.artifact.onnx is not None
    file = result.artifact.onnx.path.with_name(name)
    content = file.read_bytes()
    file.unlink()
    if harm != "deleted":
        changed = content.replace(b"fp16", b"fp61").replace(b"fp32", b"fp23")
        file.write_bytes({"emptied": b"", "cut": content[:-3], "changed": changed}[harm])
    assert begun.finished("lower", "k" * 64, artifact(begun.folder)) is None
    lowered(begun)
    assert begun.finished("lower", "k" * 64, artifact(begun.folder)) is not None


@pytest.mark.parametrize("harm", ["deleted", "changed", "added"])
def test_a_folder_that_a_pass_made_is_checked_file_by_file(harm: str, begun: Store) -> None:
    with begun.workdir("verify", "k" * 64) as workdir:
        (workdir / "bundle" / "deep").mkdir(parents=True)
        (workdir / "bundle" / "deep" / "model.onnx").write_bytes(b"int8")
        made = dataclasses.replace(artifact(begun.folder), bundle=Bundle(workdir / "bundle", "ab"))
        record = Record("verify", {}, 1.5, False, {"db": float("nan")}, ())
        begun.finish("verify", "k" * 64, frozenset({"bundle"}), Result(made), record)
    assert begun.finished("verify", "k" * 64, artifact(begun.folder)) is not None
    file = workdir / "bundle" / "deep" / "model.onnx"
    if harm == "deleted":
        file.unlink()
    else:
        (file if harm == "changed" else file.with_name("other")).write_bytes(b"int7")
    assert begun.finished("verify", "k" * 64, artifact(begun.folder)) is None


def test_a_file_that_somebody_deleted_is_named(begun: Store) -> None:
    made = lowered(begun).artifact
    assert made.onnx is not None
    weights = made.teacher.torch.weights
    assert begun.missing(made) == weights
    weights.parent.mkdir()
    weights.touch()
    assert begun.missing(made) is None
    made.onnx.path.unlink()
    assert begun.missing(made) == made.onnx.path


# -- values -----------------------------------------------------------------------------------


def test_a_memo_is_computed_once_a_key(begun: Store) -> None:
    calls: list[int] = []

    def compute() -> Any:
        calls.append(1)
        return {"value": [0.1 + 0.2, None, "x"]}

    first = begun.memo("metric", ["a", 1], compute)
    assert begun.memo("metric", ["a", 1], compute) == first == {"value": [0.1 + 0.2, None, "x"]}
    assert len(calls) == 1
    begun.memo("metric", ["a", 2], compute)
    begun.memo("other", ["a", 1], compute)
    assert len(calls) == 3


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", '{"value": 4}', '{"value": 4, "sha256": "ab"}'])
def test_a_memo_that_is_not_as_it_was_written_is_computed_again(text: str, begun: Store) -> None:
    begun.memo("metric", 1, lambda: 5)
    (file,) = (begun.folder / "cache").iterdir()
    file.write_text(text)
    assert begun.memo("metric", 1, lambda: 6) == 6
    assert begun.memo("metric", 1, lambda: 7) == 6


def test_a_memo_that_failed_is_not_kept(begun: Store) -> None:
    with pytest.raises(RuntimeError):
        begun.memo("metric", 1, lambda: (_ for _ in ()).throw(RuntimeError()))
    assert begun.memo("metric", 1, lambda: 5) == 5


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


def test_the_same_content_is_not_published_twice(store: Store, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.onnx").write_text("1")
    store.folder.mkdir()
    place = store.publish(made, "bundle")
    before = place.stat().st_ino
    assert store.publish(made, "bundle").stat().st_ino == before, "who is reading it is not disturbed"
    (place / "model.onnx").write_text("the user's edit")
    assert store.publish(made, "bundle").stat().st_ino != before
    assert (place / "model.onnx").read_text() == "1"


def test_a_copy_that_fails_leaves_what_stood_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.onnx").write_text("1")
    store.folder.mkdir()
    store.publish(made, "bundle")
    (made / "model.onnx").write_text("2")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.publish(made, "bundle")
    assert (store.folder / "bundle" / "model.onnx").read_text() == "1"
    assert [p.name for p in store.folder.iterdir()] == ["bundle"]


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


# -- killed -----------------------------------------------------------------------------------

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def run_in_small(store: Store, generation: str, *, fresh: bool) -> None:
    """All that a run does in its folder, in the order in which it does it."""
    with store.claimed({**INPUTS, "model": generation}, fresh=fresh):
        store.memo("metric", generation, lambda: generation)
        key = digest(generation)
        if store.finished("verify", key, artifact(store.folder)) is None:
            with store.workdir("verify", key) as workdir:
                (workdir / "bundle").mkdir()
                for name in ("model.onnx", "manifest.json"):
                    write(workdir / "bundle" / name, f"{generation} of {name}")
                made = dataclasses.replace(artifact(store.folder), bundle=Bundle(workdir / "bundle", "ab"))
                record = Record("verify", {}, 1.5, False, {}, ())
                store.finish("verify", key, frozenset({"bundle"}), Result(made), record)
        store.publish(store.folder / "cache" / f"verify-{key[:16]}" / "bundle", "bundle")
        write(store.folder / "report.json", json.dumps({"of": generation}))


def killed_at(moment: int, store: Store, generation: str, *, fresh: bool) -> bool:
    """Whether a process of its own was killed at its ``moment``-th change of the disk, or was done before."""
    if (process := os.fork()) == 0:
        left = moment

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            run_in_small(store, generation, fresh=fresh)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def whole(folder: Path) -> dict[str, bytes]:
    """Every file with a final name."""
    named = (p for p in folder.rglob("*") if p.is_file() and ".partial" not in str(p))
    return {str(p.relative_to(folder)): p.read_bytes() for p in named}


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_leaves_whole_files_and_is_finished_by_the_next(tmp_path: Path) -> None:
    expected = {}
    for generation in ("old", "new"):
        run_in_small(Store(tmp_path / generation), generation, fresh=False)
        expected[generation] = whole(tmp_path / generation)
    for begun_with in (None, "old"):
        moment = 0
        while True:
            moment += 1
            store = Store(tmp_path / f"{begun_with}-{moment}")
            if begun_with:
                run_in_small(store, begun_with, fresh=False)
            if not killed_at(moment, store, "new", fresh=begun_with is not None):
                break
            left = whole(store.folder) if store.folder.exists() else {}
            for name, content in left.items():
                assert content in [tree[name] for tree in expected.values() if name in tree], (moment, name)
            bundle = {name: content for name, content in left.items() if name.startswith("bundle/")}
            assert not bundle or any(bundle.items() <= tree.items() for tree in expected.values()), moment
            assert len(bundle) in (0, 2), moment
            run_in_small(store, "new", fresh=begun_with is not None)
            assert whole(store.folder) == expected["new"], moment
            assert not list(store.folder.rglob("*.partial")), moment
        assert moment > 20
        assert whole(store.folder) == expected["new"]
