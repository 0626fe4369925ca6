"""The process that reads a model file: what it may take, what becomes of it, and that it leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from places import ROOT

from compressor.core import CompressError, UnsafeInput, UsageError
from compressor.frontend import _sandbox
from compressor.models.cifar_resnet import CifarResNet

LIMITED = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from compressor.frontend import _child\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(CifarResNet((1, 1, 1), (4, 6, 8)).build().state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left in the folder for temporary files, whatever happened."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert not list(place.iterdir())


def read(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        (weights,) = _sandbox.read(file, path)
        return dict(weights.state)


def test_weights_come_back_as_they_were(path: Path) -> None:
    expected, got = torch.load(path), read(path)
    assert list(got) == list(expected)
    assert all(torch.equal(got[key], tensor) and got[key].dtype == tensor.dtype for key, tensor in expected.items())


def test_errors_come_back_as_they_were(path: Path) -> None:
    torch.save({"w": torch.zeros(2).to_sparse()}, path)
    with pytest.raises(UsageError, match=r"model\.pt: w is not a dense tensor of real numbers") as caught:
        read(path)
    assert caught.value.hint == "give the float checkpoint, before any quantisation or sparsification"


def test_all_groups_come_back_and_shared_tensors_once(path: Path) -> None:
    state = torch.load(path)
    masked = {**state, "mask": torch.full((2, 2), -torch.inf)}
    torch.save({"epoch": 3, "model": state, "ema": {**masked, "conv1.weight": state["conv1.weight"] + 1}}, path)
    with path.open("rb") as file:
        averaged, plain = _sandbox.read(file, path)
    assert (averaged.place, plain.place) == (("ema",), ("model",))
    assert averaged.notes == ("nested under 'ema'",)
    assert torch.equal(averaged.state["conv1.weight"], state["conv1.weight"] + 1)
    assert averaged.state["mask"].isneginf().all()
    assert all(torch.equal(plain.state[key], tensor) for key, tensor in state.items())
    assert averaged.state["bn1.weight"] is plain.state["bn1.weight"]


@pytest.mark.slow
def test_from_a_thread_in_a_folder_of_modules(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "json", "compressor", "numpy", "safetensors"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONINSPECT", "1")
    found = []
    thread = threading.Thread(target=lambda: found.extend(read(path)))
    thread.start()
    thread.join()
    assert "conv1.weight" in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("while True: pass", "too much computing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "more memory or computing"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("torch.zeros(1 << 40)", "takes more than"),
        ("x = bytearray(1 << 32)", "takes more than"),
    ],
)
def test_what_takes_too_much_is_unsafe(does: str, says: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_it = "def read_weights(file, path):\n    import torch\n    try:\n        " + does
    read_it += "\n    except RuntimeError as error:\n        raise MemoryError from error\n"
    run = "_child.read_weights = read_weights; _child.main(*sys.argv[2:])"
    monkeypatch.setattr(_sandbox, "_START", LIMITED + read_it + run)
    with pytest.raises(UnsafeInput, match=says) as caught:
        read(path)
    assert caught.value.hint


def test_what_takes_too_long_is_unsafe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox, "_START", "import time; time.sleep(60)")
    monkeypatch.setattr(_sandbox, "_SECONDS", 1)
    with pytest.raises(UnsafeInput, match="takes more than 1 seconds to read"):
        read(path)


@pytest.mark.slow
def test_what_writes_too_much_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = "import os; _child._limit(0); os.fdopen(int(sys.argv[4]), 'wb').write(bytes(1 << 29))"
    monkeypatch.setattr(_sandbox, "_START", LIMITED + write)
    with pytest.raises(CompressError, match="File too large"):
        read(path)


def test_a_child_that_cannot_start_is_no_fault_of_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox, "_START", "raise ImportError('no torch here')")
    with pytest.raises(CompressError, match="no torch here") as caught:
        read(path)
    assert type(caught.value) is CompressError


def test_stopping_leaves_no_child(path: Path) -> None:
    """SIGINT while the child reads."""
    code = (
        "from pathlib import Path\nfrom compressor.frontend import _sandbox\n"
        "_sandbox._START = 'import time; time.sleep(600)'\n"
        f"path = Path({str(path)!r}); _sandbox.read(path.open('rb'), path)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for _ in range(600):
            if children := Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split():
                break
            time.sleep(0.1)
        time.sleep(0.5)
        os.kill(parent.pid, signal.SIGINT)
        assert parent.wait(60) == -signal.SIGINT
    finally:
        parent.kill()
        parent.wait()
    assert not Path(f"/proc/{children[0]}").exists()
