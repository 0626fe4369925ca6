"""Latencies on a board: of ONNX Runtime by the bundle's runner, of TensorRT by trtexec."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from compressor.bench import trtexec
from compressor.bench.bench_model import BenchModel
from compressor.bench.cache import ResultCache
from compressor.bench.device import Device, TimingRun
from compressor.bench.ssh import Board, Done, Session
from compressor.bench.timing import Blocks, TimingConfig
from compressor.bundle import runner
from compressor.core import CompressError, Json, Progress, Unavailable, UsageError, VerificationFailed
from compressor.machine import fingerprint

__all__ = ["remote", "verify_remotely"]

_BUILD = 1800.0
"""Seconds in which a board builds an engine; the smallest of them take minutes."""
_START = 120.0
"""Seconds for a runtime to start and a model to load."""
_VERSIONS = (
    "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'\n"  # it leaves a file in /tmp otherwise
    "import json, numpy, onnxruntime; print(json.dumps([onnxruntime.__version__, numpy.__version__]))"
)


class _Runtime(Protocol):
    """A runtime on the board, with the session's models."""

    @property
    def name(self) -> str:
        """Its name and version."""
        ...

    def prepare(self, progress: Progress) -> None:
        """Copy the models to the board, and check there that they compute what they should."""
        ...

    def take(self, config: TimingConfig, progress: Progress) -> tuple[dict[str, Blocks], tuple[int, ...]]:
        """Return the samples, and the cores that the work was bound to."""
        ...


@contextlib.contextmanager
def remote(
    board: Board, models: Mapping[str, BenchModel], threads: int, *, cache: ResultCache, fresh: bool = False
) -> Iterator[Device]:
    """Open a board with ``models`` on it, for as long as its session lasts.

    Unless ``fresh``, what the same files gave on the same device in the same configuration is answered from ``cache``:
    nobody measures until a gate passes. Raises what `Board.session` raises, Unavailable where the
    board has no runtime for them, VerificationFailed where a bundle does not give its known outputs there.
    """
    with board.session() as session:
        yield _Remote(session, models, threads, _runtime(session, models, threads), cache, fresh)


def verify_remotely(board: Board, model: BenchModel, progress: Progress) -> None:
    """Copy a bundle to a board, and check that it computes there what it should. Raises as `remote` does."""
    with board.session() as session:
        _runtime(session, {"candidate": model}, 1).prepare(progress)


@dataclass
class _Remote:
    session: Session
    models: Mapping[str, BenchModel]
    threads: int
    runtime: _Runtime
    cache: ResultCache
    fresh: bool
    _prepared: bool = field(default=False, init=False)

    @property
    def facts(self) -> Mapping[str, Json]:
        return self.session.facts

    def state(self) -> Mapping[str, Json]:
        return {**self.session.state(), "runtime": self.runtime.name}

    def take(self, config: TimingConfig, progress: Progress) -> TimingRun:
        before = self.state()
        key = {
            "models": {name: [model.sha256, model.feed_shapes] for name, model in self.models.items()},
            "config": dataclasses.asdict(config),
            "threads": self.threads,
            "runtime": self.runtime.name,
            "device": fingerprint(self.facts, before),
        }
        if not self.fresh and (cached := self.cache.find("boards", key)) is not None:
            return _cached_run(cached["value"], cached["when"])
        if not self._prepared:
            self.runtime.prepare(progress)
            self._prepared = True
        progress("measuring latency on the board", 0, 1)
        blocks, cores = self.runtime.take(config, progress)
        run = TimingRun(blocks, self.threads, cores, self.runtime.name, before, self.state())
        if not run.changed:
            self.cache.put("boards", key, dataclasses.asdict(run))
        return run


def _cached_run(value: Mapping[str, Json], when: str) -> TimingRun:
    blocks = {name: tuple(map(tuple, samples)) for name, samples in value["blocks"].items()}
    return TimingRun(**{**value, "blocks": blocks, "pinned": tuple(value["pinned"]), "cached": when})


def _runtime(session: Session, models: Mapping[str, BenchModel], threads: int) -> _Runtime:
    """Find the runtime that the bundles are for; for ONNX files alone the one that the board has."""
    wanted = {model.backend for model in models.values()} - {None}
    if len(wanted) > 1:
        raise UsageError(f"the bundles are for {' and '.join(sorted(map(str, wanted)))}", hint="compare like with like")
    name = next(iter(wanted), None)
    where = session.board.url
    if name is None or name == "onnxruntime":
        found = session.run([session.python, "-c", _VERSIONS], _START)
        if found.code == 0:
            return _OnnxRuntime(session, models, threads, f"onnxruntime {json.loads(_last(found))[0]}")
        if name is not None:
            why = (found.err.strip().splitlines() or ["it wrote nothing"])[-1]
            raise Unavailable(
                f"{where}: {session.python} has no ONNX Runtime: {why}",
                hint="there: python3 -m pip install numpy onnxruntime; or name the Python that has it: "
                "ssh://user@host/path/to/python3",
            )
    if name not in (None, "tensorrt"):
        raise Unavailable(f"{name} is not measured on boards", hint="run it there by hand, and time it with run.py")
    for tool in trtexec.PATHS:
        found = session.run([tool, "--help"], _START)
        if found.code != 127:
            version = trtexec.version(found.out + found.err)
            return _TensorRt(session, models, threads, f"tensorrt {'.'.join(map(str, version))}", tool, version)
    raise Unavailable(
        f"{where} has neither ONNX Runtime nor trtexec" if name is None else f"{where} has no trtexec",
        hint="there: python3 -m pip install numpy onnxruntime, or on a Jetson: apt install libnvinfer-bin",
    )


@dataclass(frozen=True)
class _OnnxRuntime:
    """ONNX Runtime, timed by `compressor.bundle.runner`, which is sent along: an ONNX file alone has none."""

    session: Session
    models: Mapping[str, BenchModel]
    threads: int
    name: str

    def prepare(self, progress: Progress) -> None:
        progress("copying to the board", 0, 1)
        files = {"run.py": Path(runner.__file__).read_bytes()}
        for name, model in self.models.items():
            files |= {f"{name}/{file}": content for file, content in model.files().items()}
        self.session.put(files)
        if bundles := [name for name, model in self.models.items() if model.folder]:
            _check(self.session, self.session.run([self.session.python, "run.py", "--verify", *bundles], _START))

    def take(self, config: TimingConfig, progress: Progress) -> tuple[dict[str, Blocks], tuple[int, ...]]:
        settings = {"threads": self.threads, **dataclasses.asdict(config)}
        words = [f"--{name}={int(value)}" for name, value in settings.items()]
        command = [self.session.python, "run.py", "--time", *words, *self.models]
        done = self.session.run(command, 4 * config.seconds + _START)
        _check(self.session, done)
        document = json.loads(_last(done))
        blocks = (tuple(map(tuple, samples)) for samples in document["samples_ms"])
        return dict(zip(self.models, blocks, strict=True)), tuple(document["pinned"])


@dataclass(frozen=True)
class _TensorRt:
    """TensorRT, timed by trtexec: engines are built on the board, and each turn is one call."""

    session: Session
    models: Mapping[str, BenchModel]
    threads: int
    name: str
    tool: str
    version: tuple[int, int, int]

    def prepare(self, progress: Progress) -> None:
        self.session.put({f"{name}/model.onnx": model.content for name, model in self.models.items()})
        for number, (name, model) in enumerate(self.models.items()):
            progress("building engines on the board", number, len(self.models))
            command = trtexec.build_command(
                self.tool,
                self.version,
                f"{name}/model.onnx",
                _engine(name),
                _shapes(model),
                model.precision,
            )
            done = self.session.run(command, _BUILD)
            _check_signal(self.session, done)
            if done.code != 0 or "&&&& PASSED" not in done.out:
                trtexec.read(done.out + done.err, done.code or 1)

    def take(self, config: TimingConfig, progress: Progress) -> tuple[dict[str, Blocks], tuple[int, ...]]:
        order, names = random.Random(config.seed), list(self.models)  # noqa: S311 - nothing secret hangs on it
        blocks: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
        for block in range(config.blocks):
            progress("measuring latency on the board", block, config.blocks)
            for name in order.sample(names, len(names)):
                command = trtexec.time_command(
                    self.tool, _engine(name), _shapes(self.models[name]), config.inferences, "times.json"
                )
                done = self.session.run(command, config.seconds + _START)
                _check_signal(self.session, done)
                summary = trtexec.read(done.out + done.err, done.code)
                every = trtexec.read_times(self.session.run(["cat", "times.json"], _START).out)
                blocks[name].append(every[-config.inferences :] or (summary.median,))
        return {name: tuple(turns) for name, turns in blocks.items()}, ()


def _engine(name: str) -> str:
    return f"{name}/model.engine"


def _shapes(model: BenchModel) -> str:
    """Return the shapes that are timed as trtexec takes them, by input name; nothing where the model has no free axis.

    Inputs whose axes are all fixed are left out: trtexec takes no profile for them.
    """
    free = {spec.name for spec in model.signature.inputs if spec.free}
    shapes = {name: shape for name, shape in model.feed_shapes.items() if name in free}
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _last(done: Done) -> str:
    """Return the line that a Python script printed last; a runtime may have printed some before it."""
    return (done.out.strip().splitlines() or [""])[-1]


def _check(session: Session, done: Done) -> None:
    """Raise the error of a call of the runner that failed."""
    _check_signal(session, done)
    errors = [line.removeprefix("error: ") for line in done.err.splitlines() if line.startswith("error: ")]
    what = f"{session.board.url}: {'; '.join(errors) or done.err.strip() or done.out.strip()}"
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
