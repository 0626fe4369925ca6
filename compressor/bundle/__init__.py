"""The deployable folder: model, manifest, golden outputs and the runner, which checks them all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.bundle import runner
from compressor.core import Bundle, Json, UsageError, VerificationFailed

__all__ = ["verify_bundle", "write_bundle"]

SCHEMA_VERSION = 1


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
    lies on disk, does not give them.
    """
    folder.mkdir(parents=True)
    shutil.copyfile(model, folder / "model.onnx")
    np.savez(folder / "golden.npz", input=golden[0], output=golden[1])
    shutil.copyfile(Path(runner.__file__), folder / "run.py")
    for path in extra:
        shutil.copyfile(path, folder / path.name)
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    whole = {
        "schema_version": SCHEMA_VERSION,
        **manifest,
        "golden": {"samples": len(golden[0]), "tolerance": tolerance},
        "files": files,
    }
    text = json.dumps(whole, indent=2, allow_nan=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return verify_bundle(folder)


def verify_bundle(folder: Path) -> Bundle:
    """Recompute the hashes, load the model and check it against golden.npz.

    Raises UsageError where ``folder`` is no bundle, VerificationFailed naming what is wrong.
    """
    if (folder / "bundle" / "manifest.json").is_file():
        folder = folder / "bundle"
    if not (folder / "manifest.json").is_file():
        raise UsageError(f"{folder} is not a bundle: it has no manifest.json", mend="name a run's folder or its bundle")
    problems = runner.verify(str(folder))
    if problems:
        raise VerificationFailed(
            f"{folder}: {'; '.join(problems)}", mend="make the bundle anew with compress run, and copy it whole"
        )
    return Bundle(folder, hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest())
