"""A real sshd on loopback, with a host key, a user and an environment of its own: what works, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import two_inputs
from onnx import TensorProto, helper, numpy_helper
from places import TEACHER

from compressor.bench import remote_agent
from compressor.bench.compare import Bench, bench
from compressor.bench.ssh import Board
from compressor.bench.timing import TimingConfig
from compressor.bundle import Manifest, write_bundle
from compressor.core import CompressError, Exit, GivenInput, Unavailable, UsageError
from compressor.onnx_signature import onnx_signature

pytestmark = pytest.mark.xdist_group("board")  # its sshd has a user of its own
SIDE, CLASSES = 24, 3
SSH = shutil.which("ssh")
"""The system's own, before a test puts another before it."""


# -- the board --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loopback:
    """An sshd of ours, and what belongs to it."""

    root: Path
    user: str
    port: int

    def url(self, python: str = "") -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{python}"

    @property
    def scratch(self) -> Path:
        """Its /tmp."""
        return self.root / "tmp"

    def left(self) -> list[str]:
        """What is left on it: files, and processes of its user that have to do with us."""
        return [str(path) for path in self.scratch.iterdir()] + [" ".join(words) for _, words in self.processes()]

    def processes(self, *having: str) -> list[tuple[int, list[str]]]:
        uid = pwd.getpwnam(self.user).pw_uid
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                said = " ".join(words)
                ours = place.stat().st_uid == uid and (str(self.root) in said or "exec(bytes.fromhex" in said)
                if ours and "sshd" not in words[0] and words[0] != "ssh" and set(having) <= set(words):
                    found.append((int(place.name), words))
        return found


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if sshd is None or SSH is None or shutil.which("ssh-keygen") is None:
        pytest.skip("there is no OpenSSH here: apt install openssh-server")
    with contextlib.ExitStack() as undo:
        root = Path(tempfile.mkdtemp(prefix="board-", dir="/tmp"))
        undo.callback(shutil.rmtree, root, ignore_errors=True)
        root.chmod(0o755)
        user = undo.enter_context(_user(root))
        _environment(root / "env", packages=("numpy", "numpy.libs", "onnxruntime"))
        _environment(root / "bare", packages=())
        (root / "tmp").mkdir()
        for name in ("host", "other", "key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)]
            subprocess.run(command, check=True)
        (root / "authorized_keys").write_bytes((root / "key.pub").read_bytes())
        shutil.chown(root / "tmp", user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        _client(root, port)
        (root / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {root}/host\nAuthorizedKeysFile {root}/authorized_keys\n"
            f"PidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\nUsePAM no\n"
            f"AllowUsers {user}\nSetEnv PATH={root}/env/bin:/usr/bin:/bin TMPDIR={root}/tmp\n"
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        log = undo.enter_context((root / "sshd.log").open("w"))
        server = subprocess.Popen([sshd, "-D", "-e", "-f", str(root / "sshd_config")], stderr=log)
        undo.callback(server.wait)
        undo.callback(server.terminate)
        _await(lambda: socket.create_connection(("127.0.0.1", port), 1).close(), root / "sshd.log")
        yield Loopback(root, user, port)


@contextlib.contextmanager
def _user(root: Path) -> Iterator[str]:
    """A user of its own where we may make one that can run a Python like ours, else the one that we are."""
    if os.getuid() != 0 or shutil.which("useradd") is None or not _open_to_all(_python()):
        yield pwd.getpwuid(os.getuid()).pw_name
        return
    name = f"board{os.getpid()}"
    home = root / "home"
    command = ["useradd", "--create-home", "--home-dir", str(home), "--shell", "/bin/sh", "--password", "*", name]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)


def _python() -> Path:
    """The interpreter that ours is, or the system's of the same version, which others may run too."""
    ours = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = next((path for folder in ("/usr/bin", "/usr/local/bin") if (path := Path(folder, version)).exists()), ours)
    return ours if _open_to_all(ours) else system.resolve()


def _open_to_all(path: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def _environment(place: Path, packages: tuple[str, ...]) -> None:
    """A Python that has these packages, and none of ours."""
    site = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    (place / "bin").mkdir()
    (place / "bin" / "python3").symlink_to(_python())
    (place / "pyvenv.cfg").write_text(f"home = {_python().parent}\ninclude-system-site-packages = false\n")
    home = Path(np.__file__).parents[1]
    for name in packages:
        if (home / name).is_dir():
            shutil.copytree(home / name, site / name, copy_function=_link, ignore=shutil.ignore_patterns("__pycache__"))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _client(root: Path, port: int, host_key: str = "host") -> None:
    """An ``ssh`` that reads our configuration and no other."""
    known, bin_ = root / "known_hosts", root / "bin"
    known.write_text(f"[127.0.0.1]:{port} {(root / f'{host_key}.pub').read_text()}")
    (root / "config").write_text(
        f"IdentityFile {root}/key\nIdentitiesOnly yes\nUserKnownHostsFile {known}\nGlobalKnownHostsFile /dev/null\n"
    )
    bin_.mkdir(exist_ok=True)
    (bin_ / "ssh").write_text(f'#!/bin/sh\nexec {SSH} -F {root}/config "$@"\n')
    (bin_ / "ssh").chmod(0o755)


def _await(thing: Callable[[], Any], log: Path | None = None, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            thing()
            return
        except (OSError, AssertionError) as error:
            if time.monotonic() > end:
                raise AssertionError(log.read_text() if log else "it never came to be") from error
            time.sleep(0.05)


@pytest.fixture
def board(loopback: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Loopback]:
    """The board, with a client that knows it and nothing kept; whatever a test does, nothing is left on it."""
    monkeypatch.setenv("PATH", f"{loopback.root}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _client(loopback.root, loopback.port)
    yield loopback
    _await(lambda: _nothing_left(loopback))


def _nothing_left(board: Loopback) -> None:
    left = board.left()
    assert not left, left


# -- models -----------------------------------------------------------------------------------


def _model(weights: np.ndarray) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(weights, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3 * SIDE * SIDE, CLASSES)).astype(np.float32)
    (here / "source.onnx").write_bytes(_model(weights))
    batch = rng.standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    signature = onnx_signature(onnx.load_from_string(_model(weights)))
    manifest = replace(Manifest.of_graph(signature, {"batch": 1}), target="host")
    outputs = {"output": batch.reshape(2, -1) @ weights}
    return write_bundle(
        here / "bundle", here / "source.onnx", manifest, {"input": batch}, outputs, {"output": 1e-2}
    ).path


QUICK = TimingConfig(blocks=5, inferences=4)
LONG = TimingConfig(blocks=50_000, inferences=100, seconds=60)


def silent(message: str, done: int, total: int) -> None:
    pass


# -- what works -------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_end_to_end(board: Loopback, bundle: Path, compress: Any) -> None:
    done = compress("bench", bundle, "--against", bundle.parent / "source.onnx", "--board", board.url(), "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["board"] == board.url()
    assert document["runtime"].startswith("onnxruntime ")
    assert document["models"]["candidate"]["latency_ms"]["samples"] == 480
    assert document["speedup_interval"][0] <= document["speedup"] <= document["speedup_interval"][1]
    assert document["device"]["cores"] >= 1
    assert document["state"]["changed"] == []
    assert set(document["state"]["before"]) == set(document["state"]["after"])
    assert document["self_test"]["spread"] >= 0


@pytest.mark.slow
def test_a_network_of_several_inputs_is_timed_there(board: Loopback, tmp_path: Path) -> None:
    (tmp_path / "two.onnx").write_bytes(two_inputs())
    plan = Bench.of(tmp_path / "two.onnx", inputs=GivenInput.parse_all(["tokens=6"]), board=board.url())
    first, longer = (
        bench(each, silent, QUICK)
        for each in (plan, replace(plan, candidate=replace(plan.candidate, sizes={"batch": 1, "length": 60})))
    )
    assert first["models"]["candidate"]["latency_ms"]["samples"] == 20
    assert (first["cached"], longer["cached"]) == (None, None)  # other sizes are another measurement


@pytest.mark.slow
def test_gate_end_to_end_with_its_exit_codes(board: Loopback, bundle: Path, compress: Any) -> None:
    against = ("--against", bundle.parent / "source.onnx", "--board", board.url())
    kept = compress("gate", bundle, *against, "--max-latency", "60s", "--max-regression", "1000%", "--json")
    assert kept.code == 0, kept.err
    assert [check["verdict"] for check in json.loads(kept.out)["checks"]] == ["pass", "pass"]
    missed = compress("gate", bundle, "--board", board.url(), "--max-latency", "0.0001ms")
    assert missed.code == 3
    assert "the limit 0.0001 ms" in missed.err


@pytest.mark.slow
def test_what_is_known_of_a_device_is_not_measured_again(board: Loopback, bundle: Path) -> None:
    plan = Bench.of(bundle, board=board.url())
    first, again = bench(plan, silent, QUICK), bench(plan, silent, QUICK)
    assert first["cached"] is None
    assert again["cached"] is not None
    assert again["samples_ms"] == first["samples_ms"]
    assert bench(replace(plan, fresh=True), silent, QUICK)["cached"] is None
    assert bench(plan, silent, replace(QUICK, seed=7))["cached"] is None


def test_a_shell_that_greets_does_no_harm(board: Loopback) -> None:
    wrapper = board.root / "bin" / "greeting-python3"
    wrapper.write_text(f'#!/bin/sh\necho "Welcome to the board"\nexec {board.root}/env/bin/python3 "$@"\n')
    wrapper.chmod(0o755)
    with Board.parse(board.url(str(wrapper))).session() as session:
        session.put({"a/b.txt": b"there", "c": bytes(3 << 20)})
        done = session.run(["cat", "a/b.txt"], 30)
        assert (done.code, done.out) == (0, "there")
        assert session.run(["no-such-command"], 30).code == 127
        assert session.run(["sleep", "30"], 0.2).code is None


def _target() -> str:
    from compressor import catalog
    from compressor.machine import machine, target_mismatch

    names = [name for name in ("x86-vnni", "x86-avx2") if target_mismatch(catalog.find_target(name), machine()) is None]
    if not names:
        pytest.skip("this machine is no target that a board of it could be")
    return names[0]


@pytest.mark.slow
def test_a_run_is_timed_and_verified_on_the_board(board: Loopback, compress: Any, tmp_path: Path) -> None:
    teacher = TEACHER
    settings = ("--set", "measure.blocks=5", "--set", "measure.inferences=4", "-o", tmp_path / "run", "--json")
    done = compress("run", teacher, "--target", _target(), "--board", board.url(), *settings)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    passes = {record["kind"]: record["metrics"] for record in report["passes"]}
    assert passes["measure"]["timed_on"] == passes["verify"]["verified_on"] == board.url()
    assert report["result"]["latency_ms"]["samples"] == 20
    assert report["engine"] == "ready"


def test_a_run_refuses_a_board_that_is_not_its_target(board: Loopback, compress: Any, tmp_path: Path) -> None:
    teacher = TEACHER
    flags = ("--board", board.url(), "-o", tmp_path / "run", "--dry-run")
    done = compress("run", teacher, "--target", "raspberry-pi-5", *flags)
    assert (done.code, "is not the target" in done.err) == (5, True)
    assert compress("run", teacher, "--target", "host", *flags).code == 2
    assert not (tmp_path / "run").exists()


# -- what goes wrong --------------------------------------------------------------------------


def refused(error: type[CompressError], code: Exit, *words: str) -> Any:
    class Check:
        def __enter__(self) -> None:
            self.raises = pytest.raises(error)
            self.caught = self.raises.__enter__()

        def __exit__(self, *of: Any) -> bool:
            handled = self.raises.__exit__(*of)
            assert self.caught.value.code == code
            assert self.caught.value.hint
            for word in words:
                assert word in self.caught.value.what, self.caught.value.what
            return bool(handled)

    return Check()


def test_a_wrong_host_key(board: Loopback, bundle: Path, compress: Any) -> None:
    _client(board.root, board.port, host_key="other")
    done = compress("gate", bundle, "--board", board.url(), "--max-latency", "60s")
    assert done.code == 5
    assert "its host key is not the one that is known" in done.err
    (board.root / "known_hosts").write_text("")
    assert compress("bench", bundle, "--board", board.url()).code == 5


def test_a_dead_host(board: Loopback, bundle: Path, compress: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"ssh://{board.user}@127.0.0.1:{free.getsockname()[1]}"
    done = compress("bench", bundle, "--board", dead)
    assert done.code == 5
    assert "cannot be reached" in done.err


def test_no_key_that_is_let_in(board: Loopback, bundle: Path) -> None:
    with refused(Unavailable, Exit.UNAVAILABLE, "lets nobody in"):
        bench(Bench.of(bundle, board=board.url().replace(board.user, "nobody-of-ours")), silent, QUICK)


def test_no_runtime_and_no_python(board: Loopback, bundle: Path) -> None:
    with refused(Unavailable, Exit.UNAVAILABLE, "has no ONNX Runtime", "No module named"):
        bench(Bench.of(bundle, board=board.url(f"{board.root}/bare/bin/python3")), silent, QUICK)
    with refused(Unavailable, Exit.UNAVAILABLE, "has neither ONNX Runtime nor trtexec"):
        alone = bundle.parent / "source.onnx"
        bench(Bench.of(alone, board=board.url(f"{board.root}/bare/bin/python3")), silent, QUICK)
    with refused(Unavailable, Exit.UNAVAILABLE, "has no /nowhere/python3"):
        bench(Bench.of(bundle, board=board.url("/nowhere/python3")), silent, QUICK)


def test_a_file_that_the_board_has_no_room_for(board: Loopback, bundle: Path) -> None:
    small = board.root / "bin" / "small-python3"
    small.write_text(f'#!/bin/sh\nulimit -f 16\nexec {board.root}/env/bin/python3 "$@"\n')
    small.chmod(0o755)
    with refused(CompressError, Exit.INTERNAL, "is full"):
        bench(Bench.of(bundle, board=board.url(str(small))), silent, QUICK)


def test_a_full_disk(board: Loopback, bundle: Path, tmp_path: Path) -> None:
    disk = board.root / "disk"
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size=32k,uid={pwd.getpwnam(board.user).pw_uid}", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        full = board.root / "bin" / "full-python3"
        full.write_text(f'#!/bin/sh\nTMPDIR={disk} exec {board.root}/env/bin/python3 "$@"\n')
        full.chmod(0o755)
        with refused(CompressError, Exit.INTERNAL, "is full"):
            bench(Bench.of(bundle, board=board.url(str(full))), silent, QUICK)
        _await(lambda: _empty(disk))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _empty(folder: Path) -> None:
    assert not list(folder.iterdir())


def _kill(board: Loopback, *having: str) -> threading.Thread:
    """Kill the first process on the board with these words, as soon as there is one."""

    def find() -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            if found := board.processes(*having):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found[0][0], signal.SIGKILL)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=find)
    thread.start()
    return thread


def test_a_runner_that_is_killed_in_the_middle(board: Loopback, bundle: Path) -> None:
    killer = _kill(board, "run.py", "--time")
    with refused(Unavailable, Exit.UNAVAILABLE, "was ended by signal 9 in the middle"):
        bench(Bench.of(bundle, board=board.url()), silent, LONG)
    killer.join()


@pytest.mark.slow
def test_a_session_that_is_killed_in_the_middle(board: Loopback, bundle: Path) -> None:
    """Even the far end that would have tidied up: its work ends with it, and its folder is fetched."""

    def find() -> None:
        _await(lambda: _running(board), seconds=300)
        for number, words in board.processes("-u", "-c"):
            if "run.py" not in words:
                os.kill(number, signal.SIGKILL)

    killer = threading.Thread(target=find)
    killer.start()
    with refused(Unavailable, Exit.UNAVAILABLE, "the connection to", "was lost"):
        bench(Bench.of(bundle, board=board.url()), silent, LONG)
    killer.join()


def _running(board: Loopback) -> None:
    assert board.processes("run.py", "--time")


@pytest.mark.slow
def test_a_client_that_is_killed_in_the_middle(board: Loopback, bundle: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from compressor.bench.compare import *; "
        "from compressor.bench.timing import TimingConfig; "
        "bench(Bench.of(Path(sys.argv[1]), board=sys.argv[2]), lambda *_: None, TimingConfig(50000, 100, 0, 60.0))"
    )
    client = subprocess.Popen([sys.executable, "-c", code, str(bundle), board.url()])
    try:
        _await(lambda: _running(board), seconds=300)
    finally:
        client.kill()
        client.wait()


@pytest.mark.slow
def test_two_clients_at_once_take_turns(board: Loopback, bundle: Path) -> None:
    documents: list[Any] = []

    def measure(seed: int) -> None:
        documents.append(bench(Bench.of(bundle, board=board.url()), silent, replace(QUICK, seed=seed)))

    clients = [threading.Thread(target=measure, args=(seed,)) for seed in (1, 2)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(documents) == 2


def test_a_client_that_does_not_wait_for_another(board: Loopback) -> None:
    with Board.parse(board.url()).session() as first:
        impatient = replace(Board.parse(board.url()), wait=0.0)
        with refused(Unavailable, Exit.UNAVAILABLE, "is measuring for somebody else"), impatient.session():
            pass
        assert first.run(["true"], 30).code == 0


def test_a_bundle_that_computes_something_else_there(board: Loopback, bundle: Path) -> None:
    """Its known outputs are compared on the board, by the board's runtime."""
    broken = board.root / "broken"
    if not broken.exists():
        shutil.copytree(board.root / "env", broken, symlinks=True)
        (site,) = broken.glob("lib/python3*/site-packages")
        with (site / "onnxruntime" / "__init__.py").open("r") as file:
            text = file.read()
        (site / "onnxruntime" / "__init__.py").unlink()
        (site / "onnxruntime" / "__init__.py").write_text(
            text + "\n_run = InferenceSession.run\n"
            "InferenceSession.run = lambda self, *given: [each + 1 for each in _run(self, *given)]\n"
        )
    with refused(CompressError, Exit.VERIFICATION, "differs from golden.npz"):
        bench(Bench.of(bundle, board=board.url(f"{broken}/bin/python3")), silent, QUICK)


# -- its address ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "user", "port", "python"),
    [
        ("ssh://pi@raspberrypi.local", "raspberrypi.local", "pi", None, "python3"),
        ("ssh://10.0.0.7:2222", "10.0.0.7", None, 2222, "python3"),
        ("ssh://a.b-c@[fe80::1]:22/", "fe80::1", "a.b-c", 22, "python3"),
        ("ssh://pi@pi5/home/pi/venv/bin/python3", "pi5", "pi", None, "/home/pi/venv/bin/python3"),
    ],
)
def test_an_address(url: str, host: str, user: str | None, port: int | None, python: str) -> None:
    found = Board.parse(url)
    assert (found.host, found.user, found.port, found.python) == (host, user, port, python)


@pytest.mark.parametrize(
    "url",
    [
        "pi@pi5", "ssh://", "http://pi5", "ssh://-oProxyCommand=x", "ssh://pi5:0", "ssh://pi5:99999", "ssh://a b",
        "ssh://-l@pi5", "ssh://pi5/bin/sh -c 'x'", "ssh://pi5/$(reboot)", "ssh://pi5/a;b", "ssh://pi:secret@pi5",
    ],
)  # fmt: skip
def test_no_address(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Board.parse(url)
    assert caught.value.hint
    assert "secret" not in caught.value.what


def test_what_runs_on_boards_is_python_3_6() -> None:
    import ast

    from compressor.machine import probe

    for module, imported in (
        (probe, {"os", "platform", "subprocess", "pathlib", "typing"}),
        (remote_agent, {
            "contextlib", "ctypes", "hashlib", "json", "os", "pathlib", "select", "shutil", "signal", "socket",
            "subprocess", "sys", "tarfile", "tempfile", "time", "typing",
        }),
    ):  # fmt: skip
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        tree = ast.parse(source, feature_version=(3, 6))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes}
        assert names == imported
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
                    and isinstance(node.right, ast.Constant) and node.right.value is None]  # fmt: skip
