"""A run's folder on disk: every file in it is whole, and one run at a time uses it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from compressor import catalog
from compressor.atomic import clear_partial, partial, refusals, write
from compressor.core import Artifact, Json, OnnxModel, Record, Result, UsageError

__all__ = ["Store", "digest", "file_sha256", "identity"]

_HERE = "@/"
"""Stands for the run's folder in the JSON that is stored there, so that the folder can be moved."""

_SHARED = ("soft-targets", "teacher-graph", "normalization", "latency", "scores", "teachers")
"""What runs that share a folder keep there: it depends on teacher, data and device alone."""

_FIRST_FILES = (".lock", partial(Path("inputs.json")).name)
"""The only files that a run may leave that was killed before it wrote ``inputs.json``."""


class Store:
    """One run's folder: its cache of finished passes and of values, its lock, what it publishes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shared: Path | None = None

    def share(self, folder: Path) -> None:
        """Keep in ``folder`` what other runs of the same teacher, data and device can use too."""
        self._shared = folder

    # -- which run the folder belongs to ----------------------------------------------------------

    def check_usable(self) -> None:
        """Raise UsageError where no run can use the folder, whatever its inputs. Nothing is written.

        That is so where it cannot be written, holds something other than a run, or is in use by another run.
        """
        try:
            str(self.folder).encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"cannot write to {self.folder}: its name is no UTF-8, which the runtimes need",
                hint="name another folder with -o",
            ) from error
        with refusals(self.folder):
            nearest = next(p for p in (self.folder, *self.folder.parents) if p.exists())
            if not nearest.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{nearest} is not a folder", str(nearest))
            if not os.access(nearest, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it is read-only", str(nearest))
            if nearest == self.folder and self._begun() is not None and self._lock_file.exists():
                with self._lock_file.open("rb") as lock:
                    self._hold(lock, fcntl.LOCK_SH)

    def check_inputs(self, inputs: Mapping[str, Json], *, fresh: bool) -> None:
        """Raise UsageError where the folder was begun with other inputs, unless ``fresh`` starts over."""
        with refusals(self.folder):
            begun = self._begun() if self.folder.exists() else None
        changed = [key for key in inputs if begun and begun.get(key) != json.loads(json.dumps(inputs[key]))]
        if changed and not fresh:
            raise UsageError(
                f"{self.folder} was begun with other inputs: {', '.join(changed)} changed",
                hint="--fresh starts over there, or name another -o",
            )

    @contextlib.contextmanager
    def claimed(self, inputs: Mapping[str, Json], *, fresh: bool) -> Iterator[None]:
        """Lock the folder for one run of ``inputs``, and prepare it.

        Raises UsageError as `check_usable` and `check_inputs` do, and where the folder was moved or deleted meanwhile;
        CompressError where the disk is full.
        """
        self.check_usable()
        with refusals(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock_file.open("wb") as lock:
                self._hold(lock, fcntl.LOCK_EX)
                self.check_inputs(inputs, fresh=fresh)
                clear_partial(self.folder)
                if fresh:
                    self._clear()
                write(self.folder / "inputs.json", json.dumps(inputs, indent=2) + "\n")
                self._cache.mkdir(exist_ok=True)
                try:
                    yield
                finally:
                    self._check_place(lock)

    @property
    def _lock_file(self) -> Path:
        return self.folder / ".lock"

    @property
    def _cache(self) -> Path:
        return self.folder / "cache"

    def _hold(self, lock: BinaryIO, how: int) -> None:
        """Lock a file until it is closed; the kernel unlocks it for a killed run too. Raises UsageError."""
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another run is using {self.folder}", hint="wait for it, or name another -o") from error
        except OSError as error:
            raise UsageError(
                f"the file system of {self.folder} has no file locks: {error.strerror}",
                hint="name a folder on a local disk with -o",
            ) from error

    def _check_place(self, lock: BinaryIO) -> None:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(lock.fileno()), self._lock_file.stat()):
                return
        raise UsageError(
            f"{self.folder} was deleted or moved while the run was writing to it",
            hint="leave it where it is until the run has ended",
        )

    def _begun(self) -> Mapping[str, Json] | None:
        """Return the inputs that the folder was begun with, if any. Raises UsageError where it holds other files."""
        try:
            begun: Json = json.loads((self.folder / "inputs.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            begun = None
            others = any(p.name not in _FIRST_FILES for p in self.folder.iterdir())
        except ValueError:
            others = True
        else:
            # Other programs write an inputs.json too; a run's has these two keys.
            others = not isinstance(begun, Mapping) or not {"model", "target"} <= begun.keys()
        if others:
            raise UsageError(f"{self.folder} holds something other than a run", hint="name an empty folder with -o")
        return None if begun is None else dict(begun)

    def _clear(self) -> None:
        for name in ("bundle", "cache", "teacher", "logs"):
            path = self.folder / name
            if path.exists():  # renamed first: a half-deleted bundle must not be taken for a whole one
                shutil.rmtree(path.replace(partial(path)), ignore_errors=True)
        # inputs.json last: without it a half-cleared folder would be refused as something other than a run.
        for name in ("report.json", "report.html", "resolved.toml", "inputs.json"):
            (self.folder / name).unlink(missing_ok=True)

    # -- passes -----------------------------------------------------------------------------------

    def finished(self, kind: str, key: str, artifact: Artifact) -> tuple[Result, Record] | None:
        """Return the result of a pass that ran before, applied to ``artifact``, and its record.

        None where it did not run, or where a file that it wrote was deleted or changed since.
        """
        path = self._pass_folder(kind, key) / "result.json"
        entry = _recall(path)
        stored = entry and self._unpack(entry["value"])
        if stored is None or stored["files"] != self._hashes(stored["slots"]):
            return None
        hints = typing.get_type_hints(Artifact)
        slots = {name: catalog.coerce(hints[name], value, f"{path}: {name}") for name, value in stored["slots"].items()}
        record = catalog.make(Record, stored["record"], str(path))
        return Result(dataclasses.replace(artifact, **slots), record.metrics, record.warnings, record.pinned), record

    @contextlib.contextmanager
    def workdir(self, kind: str, key: str) -> Iterator[Path]:
        """Yield an empty folder for a pass to work in; what a stopped run left there is removed."""
        folder = self._pass_folder(kind, key)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        yield folder

    def finish(self, kind: str, key: str, produces: frozenset[str], result: Result, record: Record) -> None:
        """Store what a pass produced, for `finished`."""
        slots = {name: _plain(getattr(result.artifact, name)) for name in sorted(produces)}
        stored = {"slots": slots, "record": _plain(record), "files": self._hashes(slots)}
        _remember(self._pass_folder(kind, key) / "result.json", self._pack(stored))

    def _pass_folder(self, kind: str, key: str) -> Path:
        return self._cache / f"{kind}-{key[:16]}"

    def last_graph(self) -> OnnxModel | None:
        """Return the last graph that a finished pass made, with those it was made from; None where none did."""
        found = sorted(self._cache.glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in reversed(found):
            entry = _recall(path)
            stored = entry and self._unpack(entry["value"])
            if stored is not None and stored["slots"].get("onnx"):
                made: OnnxModel = catalog.coerce(OnnxModel, stored["slots"]["onnx"], f"{path}: onnx")
                return made
        return None

    def missing(self, artifact: Artifact) -> Path | None:
        """Return the first file or folder of an artifact that does not exist any more, if any."""
        return next((path for path in self._files(_plain(artifact)) if not path.exists()), None)

    # -- values -----------------------------------------------------------------------------------

    def memo(self, name: str, key: Json, compute: Callable[[], Json]) -> Json:
        """Return the JSON value of ``compute()``, which is computed once for each ``key``."""
        path = self._home(name) / f"{name}-{digest(key)[:16]}.json"
        if (entry := _recall(path)) is not None:
            return entry["value"]
        value = compute()
        _remember(path, value)
        return value

    def kept(self, name: str, key: Json) -> Path:
        """Return the folder for files that a stopped run keeps, one for each ``key``."""
        folder = self._home(name) / f"{name}-{digest(key)[:16]}"
        folder.mkdir(exist_ok=True)
        return folder

    def _home(self, name: str) -> Path:
        if self._shared is None or name not in _SHARED:
            return self._cache
        self._shared.mkdir(parents=True, exist_ok=True)
        return self._shared

    def publish(self, source: Path, name: str) -> Path:
        """Copy a finished folder to ``name``, replacing what is there, whole or not at all. Return its path."""
        path, files = self.folder / name, _contents(source)
        if files == _contents(path):
            return path
        fresh = partial(path)
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            for file in files:
                (fresh / "new" / file).parent.mkdir(parents=True, exist_ok=True)
                write(fresh / "new" / file, (source / file).read_bytes())
            if path.exists():
                path.replace(fresh / "old")
            (fresh / "new").replace(path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return path

    def _hashes(self, value: Json) -> list[list[str]]:
        """Return path and SHA-256 of every file in this folder that a JSON value names, itself or by its folder."""
        paths = sorted(self._files(value))
        return [[str(path / file), sha256] for path in paths for file, sha256 in _contents(path).items()]

    def _files(self, value: Json) -> Iterator[Path]:
        """Yield every path into this folder that a JSON value names."""
        if isinstance(value, Mapping | list):
            for item in value.values() if isinstance(value, Mapping) else value:
                yield from self._files(item)
        elif isinstance(value, str) and value.startswith(f"{self.folder}/"):
            yield Path(value)

    def _pack(self, value: Json) -> Json:
        return _walk(
            value, lambda text: _HERE + text[len(prefix) :] if text.startswith(prefix := f"{self.folder}/") else text
        )

    def _unpack(self, value: Json) -> Json:
        return _walk(value, lambda text: str(self.folder / text[len(_HERE) :]) if text.startswith(_HERE) else text)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contents(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder by its relative name; for a file, by an empty name."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {"" if file == path else str(file.relative_to(path)): file_sha256(file) for file in files}


def _remember(path: Path, value: Json) -> None:
    write(path, json.dumps({"value": value, "sha256": _sum(value)}, indent=1) + "\n")


def _recall(path: Path) -> Mapping[str, Json] | None:
    """Read what `_remember` wrote; None where there is no file, or a damaged one."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return entry if entry["sha256"] == _sum(entry["value"]) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _sum(value: Json) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def digest(value: Json) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def identity(value: Any) -> Json:
    """Reduce a slot's value to JSON for a cache key: without paths, and without fields marked ``volatile``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: identity(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not f.metadata.get("volatile")
        }
    if isinstance(value, Path):
        return None
    if isinstance(value, Mapping):
        return {str(k): identity(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [identity(v) for v in value]
    return value


def _plain(value: Any) -> Json:
    """Convert a dataclass to JSON, paths to text."""
    tree = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    return _walk(tree, str)


def _walk(value: Any, text: Callable[[str], str]) -> Json:
    """Convert every text and path in a tree by ``text``, and tuples to lists."""
    if isinstance(value, Mapping):
        return {k: _walk(v, text) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(v, text) for v in value]
    return text(str(value)) if isinstance(value, str | Path) else value
