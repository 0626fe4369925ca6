"""A board as a place to take latencies: ONNX Runtime by the bundle's runner, TensorRT by trtexec."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from compressor.bench import trtexec
from compressor.bench.machine import fingerprint
from compressor.bench.device import Place, TimingRun
from compressor.bench.cache import ResultCache
from compressor.bench.ssh import Board, Done, Session
from compressor.bench.bench_model import BenchModel
from compressor.bench.timing import Blocks, TimingConfig
from compressor.bundle import runner
from compressor.core import CompressError, Json, Progress, Unavailable, UsageError, VerificationFailed

__all__ = ["there", "verify_there"]

_BUILD = 1800.0
"""Seconds in which a board builds an engine; the smallest of them take minutes."""
_START = 120.0
"""Seconds for a runtime to start and a model to load."""
_ASK = (
    "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'\n"  # it leaves a file in /tmp otherwise
    "import json, numpy, onnxruntime; print(json.dumps([onnxruntime.__version__, numpy.__version__]))"
)


class _Runtime(Protocol):
    """A runtime on the board, with the session's models."""

    @property
    def name(self) -> str:
        """And its version."""
        ...

    def prepare(self, progress: Progress) -> None:
        """Bring the models there, and see that they do there what they should."""
        ...

    def take(self, rounds: TimingConfig, progress: Progress) -> tuple[dict[str, Blocks], tuple[int, ...]]:
        """Samples, and the cores they were taken on."""
        ...


@contextlib.contextmanager
def there(
    board: Board, subjects: Mapping[str, BenchModel], threads: int, *, shelf: ResultCache, fresh: bool = False
) -> Iterator[Place]:
    """A board with ``subjects`` on it, as long as its session lasts.

    What the same files gave on the same device in the same configuration is answered from ``shelf``, if not
    ``fresh``: measuring until it is green is no measuring. Raises what `Board.session` raises, Unavailable where the
    board has no runtime for them, VerificationFailed where a bundle does not give its known outputs there.
    """
    with board.session() as session:
        yield _There(session, subjects, threads, _runtime(session, subjects, threads), shelf, fresh)


def verify_there(board: Board, subject: BenchModel, progress: Progress) -> None:
    """Bring a bundle to a board, and see that it does there what it should. Raises as `there` does."""
    with board.session() as session:
        _runtime(session, {"candidate": subject}, 1).prepare(progress)


@dataclass
class _There:
    session: Session
    subjects: Mapping[str, BenchModel]
    threads: int
    runtime: _Runtime
    shelf: ResultCache
    fresh: bool
    _prepared: bool = field(default=False, init=False)

    @property
    def facts(self) -> Mapping[str, Json]:
        return self.session.facts

    def state(self) -> Mapping[str, Json]:
        return {**self.session.state(), "runtime": self.runtime.name}

    def take(self, rounds: TimingConfig, progress: Progress) -> TimingRun:
        before = self.state()
        key = {
            "models": {name: subject.sha256 for name, subject in self.subjects.items()},
            "rounds": dataclasses.asdict(rounds),
            "threads": self.threads,
            "runtime": self.runtime.name,
            "device": fingerprint(self.facts, before),
        }
        if not self.fresh and (kept := self.shelf.find("boards", key)) is not None:
            return _taken(kept["value"], kept["when"])
        if not self._prepared:
            self.runtime.prepare(progress)
            self._prepared = True
        progress("measuring latency on the board", 0, 1)
        blocks, cores = self.runtime.take(rounds, progress)
        taken = TimingRun(blocks, self.threads, cores, self.runtime.name, before, self.state())
        if not taken.changed:
            self.shelf.put("boards", key, dataclasses.asdict(taken))
        return taken


def _taken(kept: Mapping[str, Json], when: str) -> TimingRun:
    blocks = {name: tuple(map(tuple, samples)) for name, samples in kept["blocks"].items()}
    return TimingRun(**{**kept, "blocks": blocks, "pinned": tuple(kept["pinned"]), "cached": when})


def _runtime(session: Session, subjects: Mapping[str, BenchModel], threads: int) -> _Runtime:
    """The runtime that the bundles are for; for ONNX files alone the one that the board has."""
    wanted = {subject.backend for subject in subjects.values()} - {None}
    if len(wanted) > 1:
        raise UsageError(f"the bundles are for {' and '.join(sorted(map(str, wanted)))}", hint="compare like with like")
    name = next(iter(wanted), None)
    where = session.board.url
    if name is None or name == "onnxruntime":
        found = session.run([session.python, "-c", _ASK], _START)
        if found.code == 0:
            return _OnnxRuntime(session, subjects, threads, f"onnxruntime {json.loads(_last(found))[0]}")
        if name is not None:
            why = (found.err.strip().splitlines() or ["it said nothing"])[-1]
            raise Unavailable(
                f"{where}: {session.python} has no ONNX Runtime: {why}",
                hint="there: python3 -m pip install numpy onnxruntime; or name the Python that has it: "
                "ssh://user@host/path/to/python3",
            )
    if name not in (None, "tensorrt"):
        raise Unavailable(f"{name} is not measured on boards", hint="run it there by hand, and time it with run.py")
    for tool in trtexec.PLACES:
        found = session.run([tool, "--help"], _START)
        if found.code != 127:
            version = trtexec.version(found.out + found.err)
            return _TensorRt(session, subjects, threads, f"tensorrt {'.'.join(map(str, version))}", tool, version)
    raise Unavailable(
        f"{where} has neither ONNX Runtime nor trtexec" if name is None else f"{where} has no trtexec",
        hint="there: python3 -m pip install numpy onnxruntime, or on a Jetson: apt install libnvinfer-bin",
    )


@dataclass(frozen=True)
class _OnnxRuntime:
    """ONNX Runtime, by `compressor.bundle.runner`: it is sent along, as bundles may be older than its timing."""

    session: Session
    subjects: Mapping[str, BenchModel]
    threads: int
    name: str

    def prepare(self, progress: Progress) -> None:
        progress("copying to the board", 0, 1)
        files = {"run.py": Path(runner.__file__).read_bytes()}
        for name, subject in self.subjects.items():
            files |= {f"{name}/{file}": content for file, content in subject.files().items()}
        self.session.put(files)
        if bundles := [name for name, subject in self.subjects.items() if subject.folder]:
            _check(self.session, self.session.run([self.session.python, "run.py", "--verify", *bundles], _START))

    def take(self, rounds: TimingConfig, progress: Progress) -> tuple[dict[str, Blocks], tuple[int, ...]]:
        settings = {"threads": self.threads, **dataclasses.asdict(rounds)}
        words = [f"--{name}={int(value)}" for name, value in settings.items()]
        command = [self.session.python, "run.py", "--time", *words, *self.subjects]
        done = self.session.run(command, 4 * rounds.seconds + _START)
        _check(self.session, done)
        told = json.loads(_last(done))
        blocks = (tuple(map(tuple, samples)) for samples in told["samples_ms"])
        return dict(zip(self.subjects, blocks, strict=True)), tuple(told["pinned"])


@dataclass(frozen=True)
class _TensorRt:
    """TensorRT, by trtexec: engines are built on the board, and take their turns one call each."""

    session: Session
    subjects: Mapping[str, BenchModel]
    threads: int
    name: str
    tool: str
    version: tuple[int, int, int]

    def prepare(self, progress: Progress) -> None:
        self.session.put({f"{name}/model.onnx": subject.content for name, subject in self.subjects.items()})
        for number, (name, subject) in enumerate(self.subjects.items()):
            progress("building engines on the board", number, len(self.subjects))
            precision = subject.manifest.get("precision") or {}
            command = trtexec.build_command(
                self.tool,
                self.version,
                f"{name}/model.onnx",
                _engine(name),
                _shapes(subject),
                precision.get("realised"),
            )
            done = self.session.run(command, _BUILD)
            _check_signal(self.session, done)
            if done.code != 0 or "&&&& PASSED" not in done.out:
                trtexec.read(done.out + done.err, done.code or 1)

    def take(self, rounds: TimingConfig, progress: Progress) -> tuple[dict[str, Blocks], tuple[int, ...]]:
        order, names = random.Random(rounds.seed), list(self.subjects)  # noqa: S311 - nothing secret hangs on it
        blocks: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
        for block in range(rounds.blocks):
            progress("measuring latency on the board", block, rounds.blocks)
            for name in order.sample(names, len(names)):
                command = trtexec.time_command(
                    self.tool, _engine(name), _shapes(self.subjects[name]), rounds.inferences, "times.json"
                )
                done = self.session.run(command, rounds.seconds + _START)
                _check_signal(self.session, done)
                summary = trtexec.read(done.out + done.err, done.code)
                every = trtexec.read_times(self.session.run(["cat", "times.json"], _START).out)
                blocks[name].append(every[-rounds.inferences :] or (summary.median,))
        return {name: tuple(taken) for name, taken in blocks.items()}, ()


def _engine(name: str) -> str:
    return f"{name}/model.engine"


def _shapes(subject: BenchModel) -> str:
    """The one size that is timed, as trtexec takes it; nothing where the model leaves none open."""
    dims: Sequence[int | str] = subject.manifest["input"]["shape"]
    if all(isinstance(dim, int) for dim in dims):
        return ""
    return f"{subject.manifest['input']['name']}:{'x'.join(map(str, (1, *subject.shape)))}"


def _last(done: Done) -> str:
    """The line that a Python script printed last; a runtime may have had something to say before."""
    return (done.out.strip().splitlines() or [""])[-1]


def _check(session: Session, done: Done) -> None:
    """Raise what a call of the runner means that did not end well."""
    _check_signal(session, done)
    said = [line.removeprefix("error: ") for line in done.err.splitlines() if line.startswith("error: ")]
    what = f"{session.board.url}: {'; '.join(said) or done.err.strip() or done.out.strip()}"
    if "No space left" in what or "Disk quota" in what:
        raise CompressError(f"the disk of {session.board.url} is full", hint="free some space there, in /tmp")
    match done.code:
        case 0:
            return
        case 5:
            raise Unavailable(what, hint="there: python3 -m pip install numpy onnxruntime")
        case _:
            raise VerificationFailed(what, hint="the board's runtime does not compute what the bundle says: update it")


def _check_signal(session: Session, done: Done) -> None:
    if done.code is None:
        raise Unavailable(
            f"{session.board.url}: the runner was not done after {done.seconds:.0f} s", hint="see what else runs there"
        )
    if done.code < 0 or done.code in (137, 143):
        number = -done.code if done.code < 0 else done.code - 128
        raise Unavailable(
            f"{session.board.url}: the runner was ended by signal {number} in the middle",
            hint="by the kernel, for want of memory? the same command starts anew",
        )
