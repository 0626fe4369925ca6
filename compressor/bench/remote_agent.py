"""The remote agent: the far end of a board's session. It is sent over SSH, run there, and leaves nothing behind.

It takes the device's lock, makes a folder of its own, and does what its client asks: write files and return their
hashes, run a command, read the device's state. When the client is done or gone, on a signal to stop, or when
no request comes for a while, it ends what it started and removes its folder.

Requests come one JSON object a line on stdin, ``put`` with a tar archive behind it; answers go to stdout, one JSON
object a line behind a mark, for a board's shell may greet. Python 3.6, standard library only.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Optional

__all__ = ["run_agent"]

MARK = "@compressor "
PREFIX = "compressor-board-"
LOCK = "\0compressor-board"
"""An abstract socket's name: one holder a device, whoever's; the kernel lets go of it, and no file stays."""

_CHUNK = 1 << 20
_IDLE = 120.0
"""Seconds without a request after which the client counts as gone."""
_LONGEST_OUTPUT = 256 << 20


class _Gone(Exception):
    """The client is not there any more."""


class _Wire:
    """Stdin without a buffer, so that `select` sees all that has arrived."""

    def __init__(self) -> None:
        self._held = b""

    def line(self, seconds: float) -> bytes:
        end = time.monotonic() + seconds
        while b"\n" not in self._held:
            if not select.select([0], [], [], max(end - time.monotonic(), 0))[0]:
                raise _Gone(f"no request came for {seconds:g} s")
            self.more()
        line, _, self._held = self._held.partition(b"\n")
        return line

    def read(self, count: int) -> bytes:
        if not self._held:
            if not select.select([0], [], [], _IDLE)[0]:
                raise _Gone(f"nothing was sent for {_IDLE:g} s")
            self.more()
        part, self._held = self._held[:count], self._held[count:]
        return part

    def more(self) -> None:
        got = os.read(0, _CHUNK)
        if not got:
            raise _Gone("the connection was closed")
        self._held += got


class _Archive:
    """The next ``left`` bytes of a wire as a file to read from."""

    def __init__(self, wire: _Wire, left: int) -> None:
        self._wire = wire
        self.left = left

    def read(self, count: int = _CHUNK) -> bytes:
        parts = []
        while count and self.left:
            parts.append(self._wire.read(min(count, self.left)))
            count, self.left = count - len(parts[-1]), self.left - len(parts[-1])
        return b"".join(parts)


def run_agent(probe: Any, wait: float) -> int:
    """Answer one client until it is done. ``wait``: seconds to wait for another's session to end."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if hasattr(signal, "SIGXFSZ"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a limit on a file's size is then an error like a full disk's
    os.umask(0o077)
    lock = _locked(wait)
    if lock is None:
        _answer({"error": "busy"})
        return 0
    folder = None  # type: Optional[Path]
    try:
        for stale in Path(tempfile.gettempdir()).glob(PREFIX + "*"):  # of a session that was killed outright
            shutil.rmtree(str(stale), ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        _answer({"folder": str(folder), "python": sys.executable, "facts": probe.facts()})
        wire = _Wire()
        while True:
            request = json.loads(wire.line(_IDLE).decode("utf-8"))
            if request["do"] == "put":
                _answer(_put(folder, _Archive(wire, request["bytes"])))
            elif request["do"] == "run":
                _answer(_run(request["command"], folder, request["seconds"], wire))
            elif request["do"] == "state":
                _answer({"state": probe.state()})
            else:
                return 0
    except OSError as error:
        _answer({"error": "os", "errno": error.errno, "text": str(error)})
        return 0
    except _Gone:
        return 0
    finally:
        if folder is not None:
            shutil.rmtree(str(folder), ignore_errors=True)
        lock.close()


def _locked(wait: float) -> Optional[socket.socket]:
    """The device's lock; None where another session still holds it after ``wait`` seconds."""
    end = time.monotonic() + wait
    while True:
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(LOCK)
            return lock
        except OSError:
            lock.close()
        # A client that has gone in the meantime closed its end, or sent all that it will ever send.
        gone = select.select([0], [], [], 0.5)[0] and not os.read(0, 1)
        if gone or time.monotonic() > end:
            return None


def _put(folder: Path, archive: _Archive) -> Dict[str, Any]:
    """Unpack regular files below ``folder``; their hashes, as they lie on the disk."""
    hashes = {}
    try:
        with tarfile.open(fileobj=archive, mode="r|") as members:  # type: ignore[call-overload]
            for member in members:
                path, source = folder / member.name, members.extractfile(member)
                if not member.isfile() or source is None or ".." in path.parts:
                    raise ValueError(member.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)
                hashes[member.name] = _sha256(path)
        return {"sha256": hashes}
    except OSError as error:
        return {"error": "os", "errno": error.errno, "text": str(error)}
    finally:
        while archive.left:
            archive.read()


def _run(command: Any, folder: Path, seconds: float, wire: _Wire) -> Dict[str, Any]:
    """Run a command in a group of its own, which ends with it, with the client, or after ``seconds``."""
    begun = time.monotonic()
    try:
        child = subprocess.Popen(
            command,
            cwd=str(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    except (FileNotFoundError, PermissionError) as error:
        return {"code": 127, "out": "", "err": str(error), "seconds": 0.0}
    assert child.stdout is not None
    assert child.stderr is not None
    pipes = {child.stdout.fileno(): b"", child.stderr.fileno(): b""}
    open_pipes, late = set(pipes), False
    try:
        while open_pipes:
            left = seconds - (time.monotonic() - begun)
            ready = select.select([0, *open_pipes], [], [], max(left, 0))[0] if left > 0 else []
            if not ready or sum(map(len, pipes.values())) > _LONGEST_OUTPUT:
                late = True
                break
            for number in ready:
                if number == 0:
                    wire.more()
                else:
                    got = os.read(number, _CHUNK)
                    pipes[number] += got
                    if not got:
                        open_pipes.discard(number)
    finally:
        if late or child.poll() is None:
            _end(child, gently=not late and not open_pipes)
    return {
        "code": None if late else child.wait(),
        "out": pipes[child.stdout.fileno()].decode("utf-8", "replace"),
        "err": pipes[child.stderr.fileno()].decode("utf-8", "replace"),
        "seconds": time.monotonic() - begun,
    }


def _die_with_parent() -> None:
    """Let the kernel end this command where the session is killed outright (PR_SET_PDEATHSIG is 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _end(child: Any, gently: bool) -> None:
    """End a command and all that it started; ``gently``, it has five seconds to end by itself."""
    if gently:
        try:
            child.wait(timeout=5)
            return
        except subprocess.TimeoutExpired:
            pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_CHUNK), b""):
            digest.update(block)
    return digest.hexdigest()


def _answer(value: Dict[str, Any]) -> None:
    data = (MARK + json.dumps(value) + "\n").encode("utf-8")
    while data:
        try:
            data = data[os.write(1, data) :]
        except OSError as error:
            raise _Gone("the connection was closed") from error
