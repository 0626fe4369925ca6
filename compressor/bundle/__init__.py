"""The deployable folder: model, manifest, golden outputs and the runner, which checks them all."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.atomic import write
from compressor.bundle import runner
from compressor.core import Bundle, Json, UnsafeInput, UsageError, VerificationFailed

__all__ = ["verify_bundle", "write_bundle"]

SCHEMA_VERSION = 1

_GOLDEN = 1 << 30
"""Bytes of golden.npz; a run writes eight samples."""
_ROOM, _PER_BYTE = 512 << 20, 256
"""What running a model may take: so much for any, and more for each byte of its inputs."""


def write_bundle(
    folder: Path,
    model: Path,
    manifest: Mapping[str, Json],
    golden: tuple[NDArray[np.float32], NDArray[np.float32]],
    tolerance: float,
    extra: Sequence[Path] = (),
) -> Bundle:
    """Write a bundle into the new folder ``folder``, then load it from there and check it.

    ``golden`` is a normalised batch (N x C x H x W) and the outputs expected for it, within
    ``tolerance`` (absolute, in the output's unit). Raises VerificationFailed where the bundle, as it
    lies on disk, does not give them, and UsageError where an ``extra`` file has the name of another.
    """
    names = ["model.onnx", "golden.npz", "run.py", "manifest.json", *(path.name for path in extra)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"a bundle cannot have two files named {twice[0]}", hint="give the engine another name")
    folder.mkdir(parents=True)
    known = io.BytesIO()
    np.savez(known, input=golden[0], output=golden[1])
    contents = {
        "model.onnx": model.read_bytes(),
        "golden.npz": known.getvalue(),
        "run.py": Path(runner.__file__).read_bytes(),
        **{path.name: path.read_bytes() for path in extra},
    }
    for name, content in contents.items():
        write(folder / name, content)
    files = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in sorted(contents.items())
    }
    whole = {
        "schema_version": SCHEMA_VERSION,
        **manifest,
        "golden": {"samples": len(golden[0]), "tolerance": tolerance},
        "files": files,
    }
    write(folder / "manifest.json", json.dumps(whole, indent=2, allow_nan=False) + "\n")
    return verify_bundle(folder)


def verify_bundle(folder: Path) -> Bundle:
    """Recompute the hashes, judge the model as one from outside, run it and check it against golden.npz.

    Raises UsageError where ``folder`` is no bundle, VerificationFailed naming what is wrong, UnsafeInput for files
    that reach out of the bundle or claim more than they hold.
    """
    try:
        if (folder / "bundle" / "manifest.json").is_file():
            folder = folder / "bundle"
        if not (folder / "manifest.json").is_file():
            raise UsageError(
                f"{folder} is not a bundle: it has no manifest.json", hint="name a run's folder or its bundle"
            )
        _check_links(folder)
        manifest, problems = runner.check(folder)
        problems = problems or _compared(folder, manifest)
        sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}", hint="check its permissions") from error
    if problems:
        raise VerificationFailed(
            f"{folder}: {'; '.join(problems)}", hint="make the bundle anew with compress run, and copy it whole"
        )
    return Bundle(folder, sha256)


def _check_links(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and path.exists() and not path.resolve().is_relative_to(folder.resolve()):
            raise UnsafeInput(f"{path} is a link out of the bundle", hint="copy what it leads to: cp -L")


def _compared(folder: Path, manifest: Mapping[str, Json]) -> list[str]:
    """What is wrong with the model; it and golden.npz are not opened by a library before they are judged."""
    from compressor.backends._tensorrt_judge import judge
    from compressor.data import Pickled, read_arrays
    from compressor.frontend import memory_limit, read_onnx

    try:
        content = read_onnx(folder / "model.onnx", (folder / "model.onnx").read_bytes()).SerializeToString()
        if (version := manifest.get("engine", {}).get("graph_for")) is not None:
            judge(content, str(version))
        golden = read_arrays(folder / "golden.npz", ("input", "output"), _GOLDEN)
        batch, wanted = golden["input"], golden["output"]
    except (UsageError, Pickled, VerificationFailed) as error:  # nothing was unpickled: it is only not what was written
        return [f"the model cannot be run: {error.what}"]
    room = _ROOM + 4 * len(content) + _PER_BYTE * batch.nbytes
    try:
        with memory_limit(room):
            return runner.compare(runner.Model(folder, manifest=dict(manifest), content=content), batch, wanted)
    except Exception as error:  # the runtime raises its own C++ types, all of them meaning "no"
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise UnsafeInput(
                f"{folder}: the model takes more than {room:,} bytes of memory", hint="do not run it"
            ) from error
        return [f"the model cannot be run: {error}"]
