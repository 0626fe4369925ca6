"""A model to be measured: a bundle, a run's folder, or an ONNX file alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressor.bench.device import LoadedModel
from compressor.bundle import Manifest, verify_bundle
from compressor.core import GivenInput, Metric, Signature, UsageError
from compressor.feeds import random_feeds, sizes_given
from compressor.onnx_signature import onnx_signature

__all__ = ["BenchModel", "require_same_inputs"]


@dataclass(frozen=True)
class BenchModel:
    """A model file that was judged harmless, and what its bundle says of it."""

    path: Path
    """As it was named."""
    folder: Path | None
    """Its bundle; None for an ONNX file alone."""
    content: bytes = field(repr=False)
    """The ONNX file's."""
    manifest: Manifest = field(repr=False)
    """The bundle's; of an ONNX file alone what the runner needs."""
    sizes: Mapping[str, int]
    """The size that is timed of each free axis."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def signature(self) -> Signature:
        return self.manifest.signature

    @property
    def feed_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one timed run's inputs, by name."""
        return self.signature.feeds_of(self.sizes)

    @property
    def backend(self) -> str | None:
        """The runtime that its bundle is for; None for an ONNX file alone."""
        return self.manifest.engine.backend if self.folder else None

    @property
    def precision(self) -> str | None:
        """The precision that its graph has, such as ``int8``; None for an ONNX file alone."""
        return self.manifest.precision.get("realised")

    @property
    def metric(self) -> Metric | None:
        """The task's figure as the manifest has it, and the samples it is of."""
        return self.manifest.metric

    @classmethod
    def read(cls, path: Path, inputs: tuple[GivenInput, ...] = ()) -> BenchModel:
        """Read and judge what ``path`` names; ``inputs`` gives the sizes of free axes other than the batch.

        A batch that is free is timed at 1. A bundle's other axes have their usual sizes, an ONNX file's have none.
        Raises UsageError for anything else and where a size is missing, VerificationFailed for a bundle that is not as
        it was written, UnsafeInput for a hostile file.
        """
        if path.suffix == ".onnx" and not path.is_dir():
            return cls._of_file(path, inputs)
        folder = verify_bundle(path).path
        manifest = Manifest.read(folder)
        sizes = {**manifest.sizes, **_sizes(manifest.signature, inputs)}
        return cls(path, folder, (folder / "model.onnx").read_bytes(), manifest, sizes)

    @classmethod
    def read_graph(cls, path: Path, sizes: Mapping[str, int]) -> BenchModel:
        """Read an ONNX file alone, timed with its free axes of ``sizes``, by name. Raises as `read` does."""
        return cls._of_file(path, (), sizes)

    @classmethod
    def _of_file(cls, path: Path, inputs: tuple[GivenInput, ...], known: Mapping[str, int] | None = None) -> BenchModel:
        from compressor.frontend import load_onnx

        model = load_onnx(path)
        signature = onnx_signature(model)
        if not signature.inputs or not signature.outputs:
            raise UsageError(f"{path} has no inputs or no outputs", hint="give the graph of one network")
        sizes = {**_sizes(signature, inputs), **(known or {})}
        signature.feeds_of(sizes)  # raises where an axis has no size
        return cls(path, None, model.SerializeToString(), Manifest.of_graph(signature, sizes), sizes)

    def graph(self, folder: Path) -> Path:
        """Return the ONNX file: the bundle's, or an ONNX file's judged bytes, written into ``folder``.

        Of an ONNX file's own path a runtime would look for weights beside it.
        """
        if self.folder is not None:
            return self.folder / "model.onnx"
        path = folder / f"{self.sha256}.onnx"
        path.write_bytes(self.content)
        return path

    def loaded(self, folder: Path) -> LoadedModel:
        """Return what its runtime opens and the feeds of one run; ``folder`` as in `graph`."""
        feeds = random_feeds(self.signature, self.sizes, None, seed=0)
        path = self.graph(folder) if self.folder is None else self.folder / self.manifest.engine_file
        return LoadedModel(path, self.backend or "onnxruntime", feeds)

    def files(self) -> dict[str, bytes]:
        """Return the files that a board needs, by name; their manifest has the sizes that are timed."""
        manifest = {"manifest.json": json.dumps(replace(self.manifest, sizes=self.sizes).to_json()).encode()}
        if self.folder is None:
            return {"model.onnx": self.content, **manifest}
        return {name: (self.folder / name).read_bytes() for name in self.manifest.files} | manifest


def _sizes(signature: Signature, inputs: tuple[GivenInput, ...]) -> dict[str, int]:
    """Return the sizes of free axes, by name: 1 for the batch, and what ``inputs`` says."""
    batch = {} if signature.batch is None else {signature.batch: 1}
    return {**batch, **sizes_given(signature, inputs)[0]}


def require_same_inputs(models: Sequence[BenchModel]) -> None:
    """Raise UsageError where models that are compared are fed differently: other types or sizes of inputs.

    Inputs are matched by name where all models name them alike, else by their order.
    """
    named = len({frozenset(model.feed_shapes) for model in models}) == 1

    def fed(model: BenchModel) -> list[tuple[str, str, tuple[int, ...]]]:
        shapes = model.feed_shapes
        specs = sorted(model.signature.inputs, key=lambda spec: spec.name) if named else model.signature.inputs
        return [(spec.name if named else "", spec.dtype, shapes[spec.name]) for spec in specs]

    if len({tuple(fed(model)) for model in models}) > 1:
        shown = " and ".join(f"{_shown(model)} ({model.path})" for model in models)
        raise UsageError(f"the inputs differ: {shown}", hint="compare models that take the same inputs")


def _shown(model: BenchModel) -> str:
    shapes = model.feed_shapes
    return ", ".join(f"{s.name} {s.dtype} {'x'.join(map(str, shapes[s.name]))}" for s in model.signature.inputs)
