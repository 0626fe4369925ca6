"""How the program ends: told to stop, without memory, without anybody listening."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

from compressor.atomic import FULL
from compressor.core import CompressError, UnsafeInput, UsageError
from compressor.exits import fail

STOPPED = "error: stopped\n  hint: the same command goes on from where it was\n"

BUSY = """
import os, subprocess, sys, threading, time
from compressor.exits import heed_signals
heed_signals()
threading.Thread(target=time.sleep, args=(60,)).start()
class Stubborn:
    def __del__(self):
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
print('ready', file=sys.stderr, flush=True)
Stubborn()
"""
"""A library that swallows what is raised in it, and a thread that would keep the program from ending."""


def heedful() -> None:
    """A shell's background job ignores SIGINT, and so would what it starts."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def busy(*arguments: str, code: str = BUSY) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, start_new_session=True, preexec_fn=heedful,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_ends_it_at_once_whatever_is_at_work(number: signal.Signals) -> None:
    process = busy()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", STOPPED)


def test_with_json_it_says_so_in_one_document() -> None:
    process = busy("--json")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out) == {
        "error": {"what": "stopped", "hint": "the same command goes on from where it was", "exit": 130}
    }
    assert err == STOPPED


WORKERS = """
there, here = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.write(here, b'x')
        break
else:
    for _ in range(3):
        os.read(there, 1)
    print("""


def test_a_terminal_stops_the_workers_too_and_one_message_is_given() -> None:
    process = busy(code=BUSY.replace("print(", WORKERS))
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)  # which waits for the workers' ends of the pipes too
    assert (process.returncode, out, err) == (130, "", STOPPED)


def test_impatience_changes_nothing() -> None:
    process = busy()
    for _ in range(20):
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", STOPPED)


def test_nohup_is_respected() -> None:
    process = busy(code="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + BUSY)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_on_a_terminal_the_cursor_is_given_back() -> None:
    code = BUSY.replace(
        "print(", "from rich.console import Console\nConsole(stderr=True).status('busy').start()\nprint("
    )
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=follower, stderr=follower, cwd=ROOT, preexec_fn=heedful,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    said = b""
    while process.poll() is None or select.select([leader], [], [], 0)[0]:
        try:
            said += os.read(leader, 4096)
        except OSError:  # what a terminal says when its last program has gone
            break
        if b"ready" in said:
            process.send_signal(signal.SIGINT)
    os.close(leader)
    assert process.wait(timeout=60) == 130
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")
    assert said.endswith(STOPPED.replace("\n", "\r\n").encode())


def test_a_signal_during_the_last_moments_does_not_change_the_outcome() -> None:
    code = """
import atexit, sys, time
from compressor.exits import end, heed_signals
heed_signals()
def slow():
    print('ready', file=sys.stderr, flush=True)
    time.sleep(60)
atexit.register(slow)
end(3)
"""
    process = busy(code=code)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (3, "", "")


# -- what went wrong --------------------------------------------------------------------------


def told(error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["compress"])
    with pytest.raises(SystemExit) as stop:
        fail(error)
    return int(stop.value.code or 0), capsys.readouterr().err


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


MEMORY = [
    MemoryError(),
    MemoryError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 4194304 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 400 bytes."),
    RuntimeError("... onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed ..."),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    RuntimeError("can't start new thread"),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda e: f"{type(e).__name__} {str(e)[:20]}")
def test_memory_that_ran_out_is_said_in_one_way(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for raised in (error, caused(UsageError("the model cannot be exported"), error)):
        code, err = told(raised, capsys, monkeypatch)
        assert code == 1
        assert err.startswith("error: out of memory\n  hint: ")
    code, err = told(caused(UnsafeInput("it claims more than it holds"), error), capsys, monkeypatch)
    assert (code, err) == (7, "error: it claims more than it holds\n"), "that was the file's doing"


@pytest.mark.parametrize("number", FULL)
def test_a_full_disk_is_named(number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, err = told(OSError(number, "no room", "/there/file"), capsys, monkeypatch)
    assert code == 1
    assert err.startswith("error: the disk is full: /there/file\n  hint: ")


def test_no_room_for_temporary_files(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    code, err = told(caused(UsageError("the network does not run"), error), capsys, monkeypatch)
    assert code == 1
    assert "No usable temporary directory found in ['/tmp']" in err
    assert "TMPDIR" in err


def test_a_message_is_one_line_and_its_mend_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = CompressError("no \x1b[31m\n  hint: rm -r /\n", hint="one\ntwo")
    assert told(error, capsys, monkeypatch) == (1, "error: no \\x1b[31m\\n  hint: rm -r /\n  hint: one\\ntwo\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirected", "code"),
    [
        ("targets > /dev/full", 1),
        ("targets --json > /dev/full", 1),
        ("targets 2> /dev/full", 0),
        ("targets >&-", 0),
        ("targets 2>&-", 0),
        ("rum > /dev/full", 2),
        ("rum --json > /dev/full", 2),
        ("rum 2> /dev/full", 2),
        ("rum 2>&-", 2),
        ("rum >&- 2>&-", 2),
        ("rum --json | true; exit ${PIPESTATUS[0]}", 2),
        ("targets --json | true; exit ${PIPESTATUS[0]}", 0),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_exit_code_is_right_even_if_nobody_can_listen(redirected: str, code: int, unbuffered: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m compressor {redirected}"], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.stderr.count("error: ") <= 1


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir {gone} && {sys.executable} -m compressor run {ROOT}/examples/digits/teacher.pt"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=gone, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2
    assert done.stderr == "error: the working directory does not exist any more\n  hint: cd to one that does\n"
