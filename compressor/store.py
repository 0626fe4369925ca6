"""A run's folder on disk: what is in it, whole or not at all, and one run at a time."""

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
from typing import Any

from compressor import catalog
from compressor.core import Artifact, Json, Record, Result, UsageError

__all__ = ["Store", "digest", "file_sha256", "identity", "write_text"]

_HERE = "@/"
"""Stands for the run's folder in the JSON kept there, so that the folder can be moved."""

_FIRST = (".lock", ".inputs.json.partial")
"""What a run that was killed in its first moment may have left, and nothing else."""


class Store:
    """One run's folder: its cache of finished passes, its memo, its lock, what it publishes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # -- whose folder it is -----------------------------------------------------------------------

    def admit(self, inputs: Mapping[str, Json], *, fresh: bool) -> None:
        """Raise UsageError where the folder is not for a run of ``inputs``; touch nothing.

        That is where it cannot be written, something else lives in it, or it was begun with other
        inputs (``fresh`` would then start over).
        """
        try:
            nearest = next(p for p in (self.folder, *self.folder.parents) if p.exists())
            if not nearest.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{nearest} is not a folder")
            if not os.access(nearest, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it is read-only")
            begun = self._begun() if nearest == self.folder else None
        except OSError as error:
            raise self._unwritable(error) from error
        changed = [key for key in inputs if begun and begun.get(key) != json.loads(json.dumps(inputs[key]))]
        if changed and not fresh:
            raise UsageError(
                f"{self.folder} was begun with other inputs: {', '.join(changed)} changed",
                mend="--fresh starts over there, or name another -o",
            )

    @contextlib.contextmanager
    def claimed(self, inputs: Mapping[str, Json], *, fresh: bool) -> Iterator[None]:
        """Hold the folder for one run of ``inputs``. Raises UsageError as `admit` does, or if another run holds it."""
        self.admit(inputs, fresh=fresh)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise self._unwritable(error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(
                    f"another run is using {self.folder}", mend="wait for it, or name another -o"
                ) from error
            self.admit(inputs, fresh=fresh)  # another run may have begun it in between
            if fresh:
                self._clear()
            write_text(self.folder / "inputs.json", json.dumps(inputs, indent=2) + "\n")
            yield

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(f"cannot write to {self.folder}: {error.strerror}", mend="name a writable folder with -o")

    def _begun(self) -> Mapping[str, Json] | None:
        """The inputs that the folder was begun with; None where it is empty. Raises UsageError for someone else's."""
        try:
            begun: Json = json.loads((self.folder / "inputs.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            begun = None
            others = any(p.name not in _FIRST for p in self.folder.iterdir())
        except ValueError:
            others = True
        else:
            # Many a folder has an inputs.json; ours names these two.
            others = not isinstance(begun, Mapping) or not {"model", "target"} <= begun.keys()
        if others:
            raise UsageError(f"{self.folder} holds something other than a run", mend="name an empty folder with -o")
        return None if begun is None else dict(begun)

    def _clear(self) -> None:
        for name in ("cache", "bundle", "teacher", "logs"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        # inputs.json last: without it a folder that was half cleared would pass for someone else's.
        for name in ("report.json", "report.html", "resolved.toml", "inputs.json"):
            (self.folder / name).unlink(missing_ok=True)

    # -- passes -----------------------------------------------------------------------------------

    def finished(self, kind: str, key: str, artifact: Artifact) -> tuple[Result, Record] | None:
        """The result of a pass that has run before, on ``artifact``; None where it has not, or its files are gone."""
        path = self._pass_folder(kind, key) / "result.json"
        if not path.is_file():
            return None
        stored = self._unpack(json.loads(path.read_text(encoding="utf-8")))
        if not all(file.exists() for file in self._files(stored["slots"])):
            return None
        hints = typing.get_type_hints(Artifact)
        given = {name: catalog.coerce(hints[name], value, f"{path}: {name}") for name, value in stored["slots"].items()}
        record = catalog.make(Record, stored["record"], str(path))
        made = dataclasses.replace(artifact, **given)
        return Result(made, record.metrics, record.warnings), record

    @contextlib.contextmanager
    def workdir(self, kind: str, key: str) -> Iterator[Path]:
        """An empty folder for a pass to work in; what an earlier, broken-off try left there is gone."""
        folder = self._pass_folder(kind, key)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder

    def finish(self, kind: str, key: str, gives: frozenset[str], result: Result, record: Record) -> None:
        """Remember a pass as done: from here on `finished` answers for it."""
        slots = {name: _plain(getattr(result.artifact, name)) for name in sorted(gives)}
        packed = self._pack({"slots": slots, "record": _plain(record)})
        write_text(self._pass_folder(kind, key) / "result.json", json.dumps(packed, indent=1) + "\n")

    def _pass_folder(self, kind: str, key: str) -> Path:
        return self.folder / "cache" / f"{kind}-{key[:16]}"

    # -- values -----------------------------------------------------------------------------------

    def memo(self, name: str, key: Json, compute: Callable[[], Json]) -> Json:
        """The JSON value of ``compute()``, computed once for each ``key``."""
        path = self.folder / "cache" / f"{name}-{digest(key)[:16]}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        value = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(value, indent=1) + "\n")
        return value

    def publish(self, source: Path, name: str) -> Path:
        """Copy a finished folder to ``name``, in place of what stood there, whole or not at all."""
        place = self.folder / name
        # One run at a time holds the folder: what lies under this name is a killed one's.
        fresh = self.folder / f".{name}.partial"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            shutil.copytree(source, fresh / name)
            if place.exists():
                place.replace(fresh / "old")
            (fresh / name).replace(place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return place

    def _files(self, value: Json) -> Iterator[Path]:
        """Every path into this folder that a JSON value names."""
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


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it; of a failed try nothing is left."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Json) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def identity(value: Any) -> Json:
    """What makes a slot's value what it is: everything but where it lies and what the device's state changed."""
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
    """A dataclass as JSON, paths as text."""
    tree = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    return _walk(tree, str)


def _walk(value: Any, text: Callable[[str], str]) -> Json:
    if isinstance(value, Mapping):
        return {k: _walk(v, text) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(v, text) for v in value]
    return text(str(value)) if isinstance(value, str | Path) else value
