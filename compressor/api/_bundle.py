"""A bundle inside a Python program: NumPy in, NumPy out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compressor import catalog
from compressor.bundle import verify_bundle
from compressor.core import Backend, InputSpec, Json, Normalization, Session, UsageError, VerificationFailed
from compressor.data._arrays import Arrays, to_pixels
from compressor.preprocessing import normalize

__all__ = ["LoadedBundle", "load_bundle"]


@dataclass(frozen=True, eq=False)
class LoadedBundle:
    """A verified bundle, on the runtime that it was made for. Call it with images or with a batch."""

    path: Path
    manifest: Mapping[str, Json] = field(repr=False)
    """What ``manifest.json`` holds."""
    input: InputSpec
    normalization: Normalization
    classes: tuple[str, ...] | None
    """Their names, in the order of the scores; None where none were recorded."""
    session: Session = field(repr=False)
    enlarges: int | None = None
    """Of a bundle for super-resolution: how many times as high and wide what it makes is. It takes any size."""

    def __call__(self, batch: ArrayLike) -> NDArray[np.float32]:
        """Map a batch to the first output, one row a sample.

        8-bit images go through `preprocess` first; floats are a normalised batch, N x C x H x W.
        Raises UsageError for anything else.
        """
        given = np.asarray(batch)
        if given.dtype == np.uint8:
            given = self.preprocess(given)
        wanted = self.input.shape if self.enlarges is None else (self.input.channels, *given.shape[2:])
        if (
            not np.issubdtype(given.dtype, np.floating)
            or given.ndim != 4
            or given.shape[1:] != wanted
            or not len(given)
        ):
            raise UsageError(
                f"a batch of {given.dtype}, shape {given.shape}, is not N x {' x '.join(map(str, self.input.shape))}",
                hint="give 8-bit images, or what preprocess(images) makes of them",
            )
        return self.session(np.ascontiguousarray(given, np.float32))

    def preprocess(self, images: ArrayLike) -> NDArray[np.float32]:
        """Images as the network takes them: N x C x H x W, normalised.

        They are of any size, 8-bit or floats in [0, 1], one (H x W, H x W x C) or many (N x H x W,
        N x H x W x C, N x C x H x W), and are fitted as the samples were that the model was judged on.
        Raises UsageError for anything else.
        """
        given: NDArray[Any] = np.asarray(images)
        if given.ndim == 2 or (given.ndim == 3 and given.shape[2] in (1, 3)):
            given = given[np.newaxis]
        stored = Arrays(to_pixels(given, "images"))
        size = self.input
        if self.enlarges is not None:
            size = replace(size, height=stored.pixels.shape[2], width=stored.pixels.shape[3])
        pixels = np.stack([stored.load(row, size) for row in range(len(given))])
        return normalize(pixels, self.normalization)


def load_bundle(path: str | Path, *, threads: int = 1) -> LoadedBundle:
    """Verify a bundle (or the bundle of a run's folder) and open its model on its own runtime.

    Raises UsageError where ``path`` is no bundle, VerificationFailed where it is not as it was written,
    UnsafeInput where it reaches out of its folder, Unavailable where the runtime is not installed.
    """
    folder = verify_bundle(Path(path)).path
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    try:
        entry, name = manifest["input"], manifest["engine"]["backend"]
        enlarges = manifest["outputs"][0].get("enlarges")
        sides = entry["shape"][2:] if enlarges is None else entry["measured"]
        spec = InputSpec(*map(int, (entry["shape"][1], *sides)))
        mean, std = (tuple(map(float, entry[key])) for key in ("mean", "std"))
        normalization = Normalization("manifest", float(entry["range"][1]) / 255, mean, std)
        classes = manifest["outputs"][0].get("classes")
        if not len(mean) == len(std) == spec.channels:
            raise ValueError(f"{len(mean)} means and {len(std)} deviations for {spec.channels} channels")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise VerificationFailed(
            f"{folder / 'manifest.json'} is not of this program's form: {type(error).__name__}: {error}",
            hint="make the bundle anew with compress run",
        ) from error
    backend: Backend = catalog.find("backends", name)()
    backend.version()
    name = "model.plan" if "model.plan" in manifest["files"] else "model.onnx"
    session = backend.open(folder / name, threads=threads)
    return LoadedBundle(folder, manifest, spec, normalization, tuple(classes) if classes else None, session, enlarges)
