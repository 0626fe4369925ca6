"""Checking a bundle as it lies on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.bundle import runner
from compressor.bundle._golden import golden_samples
from compressor.bundle.manifest import Manifest, bundle_folder
from compressor.core import Bundle, UnsafeInput, UsageError, VerificationFailed

__all__ = ["verify_bundle"]

_ROOM, _PER_BYTE = 512 << 20, 256
"""Bytes of memory that running a model may take: for any model, and for each byte of its inputs."""


def verify_bundle(folder: Path) -> Bundle:
    """Recompute the hashes, judge the model as one from outside, run it and check it against golden.npz.

    ``folder`` is a bundle, or a run's folder. Raises UsageError where it is no bundle, VerificationFailed naming what
    is wrong, UnsafeInput for files that reach out of the bundle or claim more than they hold.
    """
    folder = bundle_folder(folder)
    try:
        _check_links(folder)
        document, problems = runner.check(folder)
        problems = problems or _compared(folder, Manifest.read(folder), document)
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


def _compared(folder: Path, manifest: Manifest, document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the model; no library opens it or golden.npz before they are judged."""
    from compressor.data import Pickled
    from compressor.frontend import load_onnx, memory_limit
    from compressor.legality import judge_for_tensorrt

    try:
        content = load_onnx(folder / "model.onnx", (folder / "model.onnx").read_bytes()).SerializeToString()
        if (version := manifest.engine.facts.get("graph_for")) is not None:
            judge_for_tensorrt(content, str(version))
        feeds, wanted = golden_samples(folder, manifest)
    except (UsageError, Pickled, VerificationFailed) as error:  # nothing was unpickled: it is only not what was written
        return [f"the model cannot be run: {error.what}"]
    room = _ROOM + 4 * len(content) + _PER_BYTE * sum(array.nbytes for array in feeds.values())
    try:
        with memory_limit(room):
            model = runner.Model(folder, manifest=dict(document), content=content, exact=_exact(manifest))
            return runner.compare(model, feeds, wanted)
    except Exception as error:  # the runtime raises its own C++ types, all of them meaning "no"
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise UnsafeInput(
                f"{folder}: the model takes more than {room:,} bytes of memory", hint="do not run it"
            ) from error
        return [f"the model cannot be run: {error}"]


def _exact(manifest: Manifest) -> bool:
    """Whether integers are computed in floats: where the kernels here are not those of the bundle's target."""
    from compressor import catalog
    from compressor.machine import judgement, known_target

    target = known_target(manifest.target)
    return target is not None and judgement(target, catalog.find("backends", target.backend)()).exact
