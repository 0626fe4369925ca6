"""The command line's promises: one message with its mend, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT

from compressor import __version__, catalog

DIGITS = str(ROOT / "examples" / "digits" / "teacher.pt")
Compress = Callable[..., Any]
HOST = ["--target", "host"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of things that are no model and no data."""
    folder = tmp_path_factory.mktemp("odd")
    teacher = Path(DIGITS).read_bytes()
    (folder / "truncated.pt").write_bytes(teacher[: len(teacher) // 2])
    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("not a model\n" * 100)
    (folder / "model.onnx").write_bytes(b"\x08\x08onnx")
    torch.save({"alpha": torch.zeros(3), "beta": torch.zeros(2)}, folder / "keys.pt")
    torch.save(torch.nn.Linear(2, 2), folder / "whole.pt")
    (folder / "a directory.pt").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "image.png")
    (folder / "no-classes").mkdir()
    (folder / "no-classes" / "readme.txt").touch()
    rng = np.random.default_rng(0)
    for data, classes in (("one-class", 1), ("three-classes", 3)):
        for label in range(classes):
            (folder / data / f"class{label}").mkdir(parents=True)
            for i in range(10):
                image = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
                image.save(folder / data / f"class{label}" / f"{i}.png")
    np.savez(folder / "no-y.npz", x=np.zeros((4, 8, 8, 1), np.uint8))
    with zipfile.ZipFile(folder / "empty.zip", "w"):
        pass
    (folder / "file").write_text("mine")
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("mine")
    (folder / "broken.toml").write_text("[[pass")
    (folder / "own_nothing.py").write_text("def number(): return 3\ndef fails(): raise RuntimeError('[bold]no')\n")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"/" for p in files}


def check_failure(done: Any, code: int) -> None:
    """One error, one mend, no traceback, and nothing on stdout."""
    assert done.code == code, done
    lines = done.err.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[0] != "error: "
    assert done.err.count("error: ") == 1 or "RuntimeError: " in done.err
    assert done.err.count("  hint: ") == 1
    assert lines[-1].startswith("  hint: ")
    assert len(lines[-1]) > len("  hint: ")
    assert "Traceback" not in done.err
    assert "internal error" not in done.err


FAILURES: list[tuple[list[str], int, str]] = [
    # the model
    (["run", "none.pt", *HOST], 2, "there is no file none.pt"),
    (["run", "a directory.pt", *HOST], 2, "a directory.pt is a directory"),
    (["run", "keys.pt", *HOST], 2, "alpha"),
    (["run", "image.png", *HOST], 2, "image.png is not a PyTorch checkpoint"),
    (["run", "truncated.pt", *HOST], 2, "truncated"),
    (["run", "empty.pt", *HOST], 2, "empty"),
    (["run", "text.pt", *HOST], 2, "not a PyTorch checkpoint"),
    (["run", "model.onnx", *HOST], 2, "ONNX"),
    (["run", "whole.pt", *HOST], 7, "holds code"),
    (["run", "keys.pt", *HOST, "--arch", "own_nothing"], 2, "own_nothing"),
    (["run", "keys.pt", *HOST, "--arch", "own_nothing:number"], 2, "returned int"),
    (["run", "keys.pt", *HOST, "--arch", "own_nothing:fails"], 2, "[bold]no"),
    (["run", "keys.pt", *HOST, "--arch", "own_nothing:missing"], 2, "missing"),
    (["run", "keys.pt", *HOST, "--arch", "own_no_such_module:x"], 2, "own_no_such_module"),
    # names
    (["run", DIGITS, "--target", "hots"], 2, "did you mean 'host'?"),
    (["run", DIGITS, "--target", "none.toml"], 2, "none.toml"),
    (["run", DIGITS, "--target", "broken.toml"], 2, "broken.toml is not valid TOML"),
    (["run", DIGITS, "--profile", "ptqq"], 2, "did you mean 'ptq'?"),
    (["run", DIGITS, "--profile", "broken.toml"], 2, "broken.toml is not valid TOML"),
    (["run", DIGITS, "--profile", ""], 2, "unknown profile"),
    (["run", DIGITS, *HOST, "--device", "tpu"], 2, "unknown device"),
    # flags and commands
    (["run"], 2, "MODEL"),
    (["run", DIGITS, "--tarqet", "host"], 2, "--tarqet"),
    (["run", DIGITS, "more"], 2, "more"),
    (["run", DIGITS, "--target"], 2, "--target"),
    (["rum", DIGITS], 2, "rum"),
    (["--nonsense"], 2, "--nonsense"),
    (["run", DIGITS, "--seed", "-1"], 2, "--seed"),
    (["run", DIGITS, "--seed", "one"], 2, "--seed"),
    (["run", DIGITS, "--max-drop", "little"], 2, "--max-drop"),
    (["run", DIGITS, "--max-drop", "nan"], 2, "max-drop"),
    # values
    (["run", DIGITS, "--input", "8x8"], 2, "takes one image"),
    (["run", DIGITS, "--input", "3x8x8"], 2, "channels"),
    (["run", DIGITS, "--input", "1x-8x8"], 2, "not an input size"),
    (["run", DIGITS, "--input", "1x99999x8"], 2, "not an input size"),
    (["run", DIGITS, "--normalize", "imagnet"], 2, "unknown normalisation: 'imagnet'"),
    (["run", DIGITS, "--normalize", "imagenet"], 2, "channels"),
    (["run", DIGITS, "--normalize", "0.5/0"], 2, "0.5/0"),
    (["run", DIGITS, "--normalize", "a/b"], 2, "not a normalisation"),
    (["run", DIGITS, "--budget", "latency=5"], 2, "not a budget"),
    (["run", DIGITS, "--budget", "speed=5ms"], 2, "unknown budget"),
    (["run", DIGITS, "--set", "blocks=5"], 2, "--set pass.field=value"),
    (["run", DIGITS, "--set", "measure.bloks=5"], 2, "did you mean 'blocks'?"),
    (["run", DIGITS, "--set", "measure.blocks=few"], 2, "'few'"),
    (["run", DIGITS, "--set", "distil.epochs=5"], 2, "unknown pass"),
    # data
    (["run", DIGITS, "--data", "none"], 2, "no such data: 'none'"),
    (["run", DIGITS, "--data", ""], 2, "no such data"),
    (["run", DIGITS, "--data", "builtin:digit"], 2, "digits"),
    (["run", DIGITS, "--data", "no-classes"], 2, "no-classes"),
    (["run", DIGITS, "--data", "one-class"], 2, "one class only"),
    (["run", DIGITS, "--data", "three-classes"], 2, "10 classes"),
    (["run", DIGITS, "--eval", "three-classes"], 2, "three-classes"),
    (["run", DIGITS, "--data", "image.png"], 2, "image.png"),
    (["run", DIGITS, "--data", "empty.zip"], 2, "empty.zip"),
    (["run", DIGITS, "--data", "no-y.npz"], 2, "no-y.npz"),
    # output
    (["run", DIGITS, "-o", "file"], 2, "cannot write to"),
    (["run", DIGITS, "-o", "file/below"], 2, "cannot write to"),
    (["run", DIGITS, "-o", "thesis"], 2, "something other than a run"),
    (["run", DIGITS, "-o", "thesis", "--fresh"], 2, "something other than a run"),
    (["run", DIGITS, "-o", "/proc/compress"], 2, "cannot write to"),
    # the other commands
    (["verify", "none"], 2, "none is not a bundle"),
    (["verify", "thesis"], 2, "thesis is not a bundle"),
    (["verify", "file"], 2, "file is not a bundle"),
    (["inspect", "none.pt"], 2, "none.pt"),
    (["inspect", "a directory.pt"], 2, "directory"),
    (["inspect", "truncated.pt"], 2, "truncated"),
    (["inspect", "whole.pt"], 7, "holds code"),
    (["inspect", DIGITS, "--input", "x"], 2, "not an input size"),
    (["targets", "hots"], 2, "did you mean 'host'?"),
    (["targets", "broken.toml"], 2, "not valid TOML"),
    (["profiles", "ptqq"], 2, "did you mean 'ptq'?"),
    (["doctor", "all"], 2, "all"),
]


def words_of(value: object) -> str:
    """A readable id: the arguments without their folders."""
    return " ".join(Path(each).name for each in value) if isinstance(value, list) else ""


@pytest.mark.parametrize(("arguments", "code", "words"), FAILURES, ids=words_of)
def test_a_failure_is_one_message_with_its_mend(
    arguments: list[str], code: int, words: str, odd: Path, compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odd)
    before = snapshot(odd)
    done = compress(*arguments)
    check_failure(done, code)
    assert words in done.err
    assert done.out == ""
    assert snapshot(odd) == before, "nothing is created, nothing is touched"


@pytest.mark.parametrize(
    "arguments", [FAILURES[0][0], FAILURES[8][0], ["rum"], ["verify", "none"], ["targets", "hots"]]
)
def test_a_failure_as_json_is_one_document(
    arguments: list[str], odd: Path, compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odd)
    done = compress(*arguments, "--json")
    error = json.loads(done.out)["error"]
    assert error["exit"] == done.code != 0
    assert f"error: {error['what']}\n  hint: {error['hint']}\n" == done.err


def test_no_traceback_from_a_process_of_its_own(odd: Path) -> None:
    command = [sys.executable, "-m", "compressor", "run", "none.pt", "--target", "host"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=odd, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no file none.pt\n  hint: ")


@pytest.mark.parametrize("name", ["[red]x.pt", "[/bold]/x.pt", "[link=a]x.pt", "{x}%s.pt"])
def test_markup_in_a_name_is_printed_as_it_is(
    name: str, tmp_path: Path, compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = compress("run", name, *HOST)
    assert done.code == 2
    assert name in done.err


def test_escape_codes_in_a_name_are_shown_and_not_obeyed(
    tmp_path: Path, compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = compress("run", "\x1b[31mred\x07é.pt", *HOST)
    assert done.code == 2
    assert "\\x1b[31mred\\x07é.pt" in done.err
    assert "\x1b" not in done.err


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    command = [
        sys.executable.encode(),
        b"-m",
        b"compressor",
        b"run",
        b"\xff\xfe.pt",
        b"--target",
        b"host",
        b"--json",
    ]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["error"]["exit"] == 2


def test_a_full_disk_is_no_fault_of_ours(compress: Compress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressor import pipeline

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "run", full)
    done = compress("run", DIGITS, *HOST, "-o", tmp_path / "run")
    check_failure(done, 1)
    assert "the disk is full" in done.err


def test_what_nobody_thought_of_is_one_message_too(
    compress: Compress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressor import pipeline

    def broken(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(pipeline, "run", broken)
    done = compress("run", DIGITS, *HOST, "-o", tmp_path / "run", "--json")
    assert done.code == 1
    assert json.loads(done.out)["error"]["what"] == "internal error: KeyError: 'surprise'"


# -- what tells --------------------------------------------------------------------------------


def test_help_and_version(compress: Compress) -> None:
    done = compress("--help")
    assert (done.code, done.err) == (0, "")
    for name in ("run", "verify", "inspect", "targets", "profiles", "doctor"):
        assert name in done.out
        told = compress(name, "--help")
        assert told.code == 0
        assert "--json" in told.out
    assert compress("--version").out == f"compress {__version__}\n"


@pytest.mark.parametrize("folder", ["targets", "profiles"])
def test_the_catalogues_are_listed_and_explained(folder: str, compress: Compress) -> None:
    names = catalog.toml_names(folder)
    plain, told = compress(folder), compress(folder, "--json")
    assert (plain.code, plain.err, told.code, told.err) == (0, "", 0, "")
    assert [row["name"] for row in json.loads(told.out)] == names
    assert [line.split()[0] for line in plain.out.splitlines()[1:]] == names
    for name in names:
        assert json.loads(compress(folder, name, "--json").out)["name"] == name
        assert name in compress(folder, name).out


def test_doctor_examines_this_machine(compress: Compress) -> None:
    told = json.loads(compress("doctor", "--json").out)
    assert {"cpu", "arch", "cores", "versions", "targets"} <= told.keys()
    by_name = {entry["target"]: entry for entry in told["targets"]}
    assert by_name.keys() == set(catalog.toml_names("targets"))
    assert by_name["host"]["measured here"] == "yes"
    assert by_name["raspberry-pi-5"]["measured here"] != "yes"
    plain = compress("doctor")
    assert plain.code == 0
    assert "onnxruntime" in plain.out


def test_inspect_tells_what_a_model_is(compress: Compress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = json.loads(compress("inspect", DIGITS, "--json").out)
    assert told["family"] == "cifar-resnet"
    assert told["outputs"] == ["output float32 [batch, 10]"]
    assert told["task"] == "classification"
    assert told["params"] > 10_000
    assert told["bytes"] == Path(DIGITS).stat().st_size
    plain = compress("inspect", DIGITS)
    assert plain.code == 0
    assert "cifar-resnet" in plain.out
    assert f"{told['params']:,}" in plain.out
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    command = f"{sys.executable} -m compressor targets | head -0; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 0
