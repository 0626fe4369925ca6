"""The samples of a bundle, and the outputs that are expected for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from compressor.bundle.manifest import Manifest

__all__ = ["golden_samples"]

_MOST = 1 << 30
"""Bytes of golden.npz; a run writes eight samples."""


def golden_samples(folder: Path, manifest: Manifest) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Read the samples by input name, and the outputs expected for them by output name.

    Raises UsageError or Pickled where golden.npz is not what a run writes.
    """
    from compressor.data import read_arrays

    inputs, outputs = (
        [spec.name for spec in specs] for specs in (manifest.signature.inputs, manifest.signature.outputs)
    )
    names = [*(f"input:{name}" for name in inputs), *(f"output:{name}" for name in outputs)]
    arrays = read_arrays(folder / "golden.npz", names, _MOST)
    feeds = {name: arrays[f"input:{name}"] for name in inputs}
    return feeds, {name: arrays[f"output:{name}"] for name in outputs}
