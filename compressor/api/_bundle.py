"""A bundle inside a Python program: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compressor import catalog
from compressor.bundle import Manifest, verify_bundle
from compressor.core import Backend, Json, Normalization, Session, Signature, TensorSpec, UsageError
from compressor.data import fit_images
from compressor.feeds import run_in_batches
from compressor.preprocessing import normalize

__all__ = ["LoadedBundle", "load_bundle"]


@dataclass(frozen=True, eq=False)
class LoadedBundle:
    """A verified bundle, opened on the runtime that it was made for. Call it with an array for each input."""

    path: Path
    manifest: Mapping[str, Json] = field(repr=False)
    """The content of ``manifest.json``."""
    signature: Signature
    """Names, types and shapes of the inputs and outputs."""
    sizes: Mapping[str, int]
    """The usual size of each free axis."""
    image: str | None
    """The name of the image input; None where there is none, or its preparation is not known."""
    normalization: Normalization | None
    """How 8-bit pixels become the image input; None where ``image`` is."""
    classes: tuple[str, ...] | None
    """The names of the classes, in the order of the scores; None where none were recorded."""
    session: Session = field(repr=False)

    def __call__(self, feeds: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Map arrays by input name to arrays by output name, one row for each sample.

        Any number of samples is taken: a network of a fixed batch runs as often as that needs. Arrays are converted
        to the input's type where that loses no more than digits. Raises UsageError for arrays that are not the inputs'.
        """
        names = [spec.name for spec in self.signature.inputs]
        if not isinstance(feeds, Mapping) or set(feeds) != set(names):
            given = ", ".join(map(str, feeds)) if isinstance(feeds, Mapping) else type(feeds).__name__
            raise UsageError(
                f"the network takes {', '.join(names)}, and was given {given or 'nothing'}",
                hint="give a mapping from each input's name to its array, such as preprocess(images)",
            )
        stacked = self.signature.batch is None  # then samples may stand on an axis of their own, in front
        arrays = {spec.name: _converted(spec, feeds[spec.name], stacked) for spec in self.signature.inputs}
        counts = {len(array) for array in arrays.values() if array.ndim}
        if self.signature.batch is not None and len(counts) != 1:
            raise UsageError(f"the inputs have {sorted(counts)} rows", hint="give each input a row for each sample")
        return run_in_batches(self.session, arrays, max(counts, default=1))

    def preprocess(self, images: ArrayLike) -> dict[str, NDArray[np.float32]]:
        """Map images to the feeds of the image input, prepared as the samples were that the model was judged on.

        They are 8-bit or floats in [0, 1], of any size, one (H x W, H x W x C) or many (N x H x W, N x H x W x C,
        N x C x H x W). They are resized, except where the network takes any size. Raises UsageError for anything
        else, and where the network has no image input.
        """
        if self.image is None or self.normalization is None:
            raise UsageError("the bundle has no image input", hint=f"call it with {self.signature.input.name}")
        spec = next(spec for spec in self.signature.inputs if spec.name == self.image)
        axes = spec.shape[1:]
        channels, height, width = axes if self.normalization.layout == "nchw" else (axes[2], axes[0], axes[1])
        size = None if isinstance(height, str) or isinstance(width, str) else (height, width)
        assert isinstance(channels, int)
        return {self.image: normalize(fit_images(images, channels, size), self.normalization)}


def _converted(spec: TensorSpec, given: ArrayLike, stacked: bool) -> NDArray[Any]:
    """Return ``given`` in the type of ``spec``. Raises UsageError where type or sizes are another's."""
    array = np.asarray(given)
    rest = spec.shape[1:]
    trailing = array.shape[array.ndim - len(rest) :]
    fits = array.ndim - len(spec.shape) in ((0, 1) if stacked else (0,)) and all(
        isinstance(axis, str) or axis == size for axis, size in zip(rest, trailing, strict=True)
    )
    # 8-bit pixels are no float input: they want preprocess first.
    alike = np.issubdtype(array.dtype, np.floating) == np.issubdtype(spec.dtype, np.floating)
    if not alike or not np.can_cast(array.dtype, spec.dtype, "same_kind") or not fits or 0 in array.shape:
        raise UsageError(
            f"input {spec.name} is {array.dtype} {list(array.shape)}, and the network takes {spec}",
            hint="give a row for each sample, in the input's type; preprocess(images) makes rows of images",
        )
    return np.ascontiguousarray(array, spec.dtype)


def load_bundle(path: str | Path, *, threads: int = 1) -> LoadedBundle:
    """Verify a bundle (or the bundle of a run's folder) and open its model on its own runtime.

    Raises UsageError where ``path`` is no bundle, VerificationFailed where it is not as it was written,
    UnsafeInput where it reaches out of its folder, Unavailable where the runtime is not installed.
    """
    folder = verify_bundle(Path(path)).path
    manifest = Manifest.read(folder)
    backend: Backend = catalog.find("backends", manifest.engine.backend)()
    backend.version()
    classes = manifest.task.get("classes")
    return LoadedBundle(
        folder,
        manifest.to_json(),
        manifest.signature,
        manifest.sizes,
        manifest.image.name if manifest.image else None,
        manifest.normalization,
        tuple(map(str, classes)) if classes else None,
        backend.open(folder / manifest.engine_file, threads=threads),
    )
