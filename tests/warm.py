"""A command line that starts at once: a server that has imported the libraries forks a process for each command.

``python warm.py serve SOCKET`` serves, and ``python warm.py run SOCKET ARGUMENTS...`` is ``python -m compressor
ARGUMENTS...`` with the caller's folder, environment and standard streams. The project itself is imported by the forked
process alone, from wherever PYTHONPATH says. Signals are not passed on.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LIBRARIES = (
    "torch", "torch.export", "torch.onnx._internal.exporter._core", "onnxscript", "onnx_ir", "sklearn.datasets",
    "scipy.optimize", "brevitas.nn", "typer", "rich.progress", "jinja2", "PIL.Image",
)  # fmt: skip


def serve(path: str) -> None:
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    server.settimeout(5)
    parent = os.getppid()
    while os.getppid() == parent:  # else nobody is left who asks
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        keeper = os.fork()
        if not keeper and not os.fork():  # its parent is gone at once, so that nobody has to wait for it
            server.close()
            command = os.fork()
            if not command:
                _become(connection)
                return
            _, status = os.waitpid(command, 0)
            connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))
            os._exit(0)
        if not keeper:
            os._exit(0)
        os.waitpid(keeper, 0)
        connection.close()


def _become(connection: socket.socket) -> None:
    """Run the command that was asked for, in this process."""
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    asked = json.loads(message)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:0] = [asked["folder"], *filter(None, asked["environment"].get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["compressor", *asked["arguments"]]
    runpy.run_module("compressor", run_name="__main__", alter_sys=True)


def run(path: str, *arguments: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        asked = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
        code = int(connection.recv(16) or 1)
    return code if code >= 0 else 128 - code


@contextmanager
def serving(folder: Path) -> Iterator[list[str]]:
    """The command that stands for ``python -m compressor``, while a server of its own runs."""
    import subprocess
    import time

    path = folder / "socket"
    server = subprocess.Popen([sys.executable, __file__, "serve", str(path)], cwd=folder)
    try:
        while not path.exists():
            assert server.poll() is None
            time.sleep(0.05)
        yield [sys.executable, "-S", "-E", __file__, "run", str(path)]
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit({"serve": serve, "run": run}[sys.argv[1]](*sys.argv[2:]))
