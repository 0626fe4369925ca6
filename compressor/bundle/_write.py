"""Writing a bundle, which is good only after it was read back and run."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressor.atomic import write
from compressor.bundle import runner
from compressor.bundle._verify import verify_bundle
from compressor.bundle.manifest import Golden, Manifest
from compressor.core import Bundle, UsageError

if TYPE_CHECKING:
    from compressor.core.signature import Feeds

__all__ = ["write_bundle"]


def write_bundle(
    folder: Path,
    model: Path,
    manifest: Manifest,
    feeds: Feeds,
    outputs: Feeds,
    tolerances: Mapping[str, float],
    extra: Sequence[Path] = (),
) -> Bundle:
    """Write a bundle into the new folder ``folder``, then load it from there and check it.

    ``feeds`` are samples by input name as `compressor.feeds.run_in_batches` takes them, ``outputs`` what is expected
    for them by output name; each may differ by its entry in ``tolerances`` (absolute, in the output's unit).
    The manifest's ``golden`` and ``files`` are filled in. Raises VerificationFailed where the bundle, as it lies on
    disk, does not give the outputs; UsageError where an ``extra`` file has the name of another, and where
    ``manifest.engine.file`` is none of the files.
    """
    names = ["model.onnx", "golden.npz", "run.py", "manifest.json", *(path.name for path in extra)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"a bundle cannot have two files named {twice[0]}", hint="give the engine another name")
    if manifest.engine.file not in names:
        raise UsageError(f"the bundle has no {manifest.engine.file} for its runtime", hint="give it as an extra file")
    folder.mkdir(parents=True)
    known = io.BytesIO()
    arrays = {f"input:{name}": array for name, array in feeds.items()}
    arrays |= {f"output:{name}": array for name, array in outputs.items()}
    np.savez(known, allow_pickle=False, **arrays)
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
    first = next(iter(feeds.values()))
    golden = Golden(len(first) if np.ndim(first) else 1, dict(tolerances))
    replace(manifest, golden=golden, files=files).write(folder)
    return verify_bundle(folder)
