"""A board, reached with the system's own OpenSSH client. Nothing is installed on it, and nothing is left on it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import re
import select
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from compressor.atomic import FULL
from compressor.bench import remote_agent
from compressor.core import CompressError, Json, Unavailable, UsageError, VerificationFailed
from compressor.machine import probe

__all__ = ["Board", "Done", "Session"]

_OPTIONS = (
    "BatchMode=yes",  # never ask: there is nobody to answer
    "StrictHostKeyChecking=yes",  # a board whose key is not known is not the board
    "ConnectTimeout=10",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "RequestTTY=no",
)
_HELLO = 60.0
"""Seconds in which a board that is reached must answer, beside those of waiting for its lock."""

_BOOT = """
import os, sys, types
def take(count):
    data = b""
    while len(data) < count:
        got = os.read(0, count - len(data))
        if not got:
            sys.exit(0)
        data += got
    return data
parts = []
for number in range(2):
    parts.append(types.ModuleType("part"))
    exec(compile(take(int(take(8))), "compressor", "exec"), parts[-1].__dict__)
sys.exit(parts[1].run_agent(parts[0], float(take(8))))
"""
"""The program of the board's Python: it reads `probe` and `remote_agent` from stdin, and runs the latter."""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a command on the board. ``code`` is None where its time was up, below 0 where a signal ended it."""

    code: int | None
    out: str
    err: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Board:
    """``ssh://[user@]host[:port][/path/to/python3]``. Keys and the like are the SSH client's own configuration."""

    url: str
    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    wait: float = 600.0
    """Seconds to wait for another session on it to end."""

    @classmethod
    def parse(cls, url: str) -> Board:
        """Read a URL. Raises UsageError for anything else, and for one that holds a password."""
        hint = "write ssh://user@host, ssh://user@host:port, or with the board's Python: ssh://user@host/path/python3"
        match = re.fullmatch(
            r"ssh://(?:(?P<user>[^@/]*)@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?(?P<path>/.*)?",
            url,
        )
        if match and ":" in (match["user"] or ""):
            raise UsageError("a board's URL holds no password", hint="give the SSH client a key: ssh-copy-id")
        port = int(match["port"]) if match and match["port"] else None
        if (
            match is None
            or not re.fullmatch(r"[\w][\w.-]*", match["user"] or "x")
            or match["host"].startswith(("-", "."))
            or not 0 < (22 if port is None else port) < 65536
            or not re.fullmatch(r"(?:/[\w.+-]+)*/?", match["path"] or "")
        ):
            raise UsageError(f"not a board: {url!r}", hint=hint)
        python = "python3" if (match["path"] or "/") == "/" else match["path"]
        return cls(url, match["host"].strip("[]"), match["user"], port, python)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A session with a folder and the device's lock of its own; both are gone when it ends, however it ends.

        Raises Unavailable where the board cannot be reached, has no Python 3 or is busy, CompressError where its disk
        is full.
        """
        with tempfile.TemporaryFile() as errors:
            # In hex no shell, of whatever kind, finds anything to read into it.
            command = f"exec {self.python} -u -c 'exec(bytes.fromhex(\"{_BOOT.encode().hex()}\"))'"
            try:
                process = self._ssh(command, errors)
            except FileNotFoundError as error:
                raise Unavailable("there is no ssh here", hint="install OpenSSH's client") from error
            session = Session(self, process, errors)
            try:
                session.open()
                yield session
            finally:
                session.close()

    def sweep(self, folder: str) -> None:
        """Remove what a session that broke off may have left."""
        if not re.fullmatch(r"/[\w./+-]*/" + remote_agent.PREFIX + r"\w+", folder) or ".." in folder:
            return
        with tempfile.TemporaryFile() as errors, contextlib.suppress(subprocess.TimeoutExpired, OSError):
            process = self._ssh(f"rm -rf {folder}", errors)
            try:
                process.communicate(timeout=30)
            finally:
                process.kill()

    def _ssh(self, command: str, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        options = [word for option in _OPTIONS for word in ("-o", option)]
        options += ["-p", str(self.port)] if self.port else []
        options += ["-l", self.user] if self.user else []
        return subprocess.Popen(
            ["ssh", *options, "--", self.host, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        )


@dataclass
class Session:
    """An open session: one request, one answer."""

    board: Board
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    """What the SSH client wrote to stderr."""
    folder: str | None = None
    """The folder on the board in which files lie and commands run."""
    python: str = "python3"
    facts: Mapping[str, Json] = field(default_factory=dict)
    """`compressor.machine.probe.facts` of the board."""
    _held: bytes = b""

    def open(self) -> None:
        """Send the remote agent, and let it take the lock."""
        for module in (probe, remote_agent):
            source = Path(str(module.__file__)).read_bytes()
            self._send(b"%8d" % len(source) + source)
        self._send(b"%8.1f" % self.board.wait)
        hello = self._answer(self.board.wait + _HELLO)
        self.folder, self.python, self.facts = hello["folder"], hello["python"], hello["facts"]

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files, by their paths below the session's folder, and compare their hashes from the board's disk."""
        import hashlib

        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        self._ask({"do": "put", "bytes": packed.tell()})
        self._send(packed.getvalue())
        found = self._answer(600.0)["sha256"]
        wrong = [name for name in files if found.get(name) != hashlib.sha256(files[name]).hexdigest()]
        if wrong:
            raise VerificationFailed(
                f"{self.board.url}: {wrong[0]} arrived changed", hint="check the board's disk and memory"
            )

    def run(self, command: Sequence[str], seconds: float) -> Done:
        """Run a command in the session's folder, for at most so long by the board's clock."""
        self._ask({"do": "run", "command": list(command), "seconds": seconds})
        answer = self._answer(seconds + _HELLO)
        return Done(answer["code"], answer["out"], answer["err"], answer["seconds"])

    def state(self) -> dict[str, Json]:
        """`compressor.machine.probe.state` of the board, now."""
        self._ask({"do": "state"})
        state: dict[str, Json] = self._answer(_HELLO)["state"]
        return state

    def close(self) -> None:
        """End the session, and make sure that the board's folder is gone."""
        with contextlib.suppress(CompressError, OSError):
            self._ask({"do": "bye"})
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            code = self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if code != 0 and self.folder is not None:
            self.board.sweep(self.folder)

    def _ask(self, request: Json) -> None:
        self._send(json.dumps(request).encode() + b"\n")

    def _send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self.process.stdin.write(view) or 0 :]
        except BrokenPipeError:
            # The agent gives the reason on stdout, or ssh on stderr: `_answer` raises it.
            return

    def _answer(self, seconds: float) -> dict[str, Any]:
        """Return the next answer. Raises CompressError where none comes, or where it is a refusal."""
        assert self.process.stdout is not None
        mark, end = remote_agent.MARK.encode(), time.monotonic() + seconds
        while True:
            line, newline, rest = self._held.partition(b"\n")
            if newline:
                self._held = rest
                if line.startswith(mark):
                    return self._judged(json.loads(line[len(mark) :]))
                continue  # a board's shell may greet
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Unavailable(
                    f"{self.board.url} did not answer for {seconds:.0f} s", hint="see whether the board is up, and idle"
                )
            got = self.process.stdout.read(1 << 20)
            if not got:
                raise self._lost()
            self._held += got

    def _judged(self, answer: dict[str, Any]) -> dict[str, Any]:
        match answer.get("error"):
            case None:
                return answer
            case "busy":
                raise Unavailable(
                    f"{self.board.url} is measuring for somebody else, and was for {self.board.wait:.0f} s",
                    hint="try again when that has ended",
                )
            case _ if answer["errno"] in (*FULL, errno.ENOMEM):
                raise CompressError(
                    f"the disk of {self.board.url} is full: {answer['text']}", hint="free some space there, in /tmp"
                )
            case _:
                raise Unavailable(
                    f"{self.board.url}: {answer['text']}", hint="its /tmp must be a folder that may be written"
                )

    def _lost(self) -> CompressError:
        """Tell why a connection ended, by what the SSH client wrote."""
        code = self.process.wait()
        self.errors.seek(0)
        text = self.errors.read().decode("utf-8", "replace").strip()
        where, last = self.board.url, (text.splitlines() or ["it wrote nothing"])[-1]
        if "Host key verification failed" in text or "IDENTIFICATION HAS CHANGED" in text:
            return Unavailable(
                f"{where}: its host key is not the one that is known, or none is known",
                hint=f"compare the key's fingerprint on the board itself, then: ssh-keyscan {self.board.host}",
            )
        if "Permission denied" in text:
            return Unavailable(f"{where} lets nobody in with these keys: {last}", hint="ssh-copy-id, once, by hand")
        if code in (126, 127):
            return Unavailable(
                f"{where} has no {self.board.python}: {last}",
                hint="install Python 3 there, or name it: ssh://user@host/path/to/python3",
            )
        if self.folder is None and code == 255:
            return Unavailable(f"{where} cannot be reached: {last}", hint=f"try by hand: ssh {self.board.host} true")
        if "No usable temporary directory" in text or "No space left" in text:
            return CompressError(f"the disk of {where} is full: {last}", hint="free some space there, in /tmp")
        return Unavailable(f"the connection to {where} was lost: {last}", hint="the same command starts anew")
