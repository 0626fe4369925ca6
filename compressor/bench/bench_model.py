"""What is measured: a bundle, a run's folder, or an ONNX file alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compressor.bench.device import LoadedModel
from compressor.bundle import verify_bundle
from compressor.core import InputSpec, Json, Metric, Normalization, UsageError, VerificationFailed

__all__ = ["Subject", "same_input"]


@dataclass(frozen=True)
class BenchModel:
    """A model file that was judged harmless, and what its bundle says of it."""

    path: Path
    """As it was named."""
    folder: Path | None
    """Its bundle; None for an ONNX file alone."""
    content: bytes = field(repr=False)
    """Of the ONNX file."""
    shape: tuple[int, ...]
    """Of one input, without the batch."""
    manifest: Mapping[str, Json] = field(repr=False)
    """What `compressor.bundle.runner` needs of it, and in a bundle all the rest."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def backend(self) -> str | None:
        """The runtime that its bundle is for; an ONNX file says nothing of one."""
        engine = self.manifest.get("engine")
        return engine["backend"] if engine else None

    @property
    def metric(self) -> Metric | None:
        """What the manifest says it was worth, and on which samples."""
        evaluation = self.manifest.get("evaluation")
        return Metric(**evaluation["metric"]) if evaluation else None

    @classmethod
    def read(cls, path: Path, input: InputSpec | None = None) -> BenchModel:
        """Read and judge what ``path`` names; ``input`` is for a file that leaves its input's size open.

        Raises UsageError for anything else, VerificationFailed for a bundle that is not as it was written,
        UnsafeInput for a hostile file.
        """
        if path.suffix == ".onnx" and not path.is_dir():
            return cls._of_file(path, input)
        folder = verify_bundle(path).path
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        content = (folder / "model.onnx").read_bytes()
        return cls(path, folder, content, _size(manifest["input"]["shape"], path, input), manifest)

    @classmethod
    def _of_file(cls, path: Path, input: InputSpec | None) -> BenchModel:
        from onnx import TensorProto

        from compressor.frontend import read_onnx

        model = read_onnx(path)
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        if len(inputs) != 1 or not model.graph.output:
            raise UsageError(f"{path} has {len(inputs)} inputs", hint="give a model with one input and an output")
        (given,) = inputs
        tensor = given.type.tensor_type
        dims: list[int | str] = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
        if tensor.elem_type != TensorProto.FLOAT or len(dims) < 2:
            raise UsageError(f"the input of {path} is no float32 batch", hint="export it with a float32 input")
        if dims[0] not in (1,) and not isinstance(dims[0], str):
            raise UsageError(
                f"{path} takes {dims[0]} samples at a time", hint="export it with a free batch, or one of 1"
            )
        shape = _size(dims, path, input)
        manifest = {
            "input": {"name": given.name, "shape": ["batch", *shape]},
            "outputs": [{"name": model.graph.output[0].name}],
        }
        return cls(path, None, model.SerializeToString(), shape, manifest)

    def preparation(self) -> tuple[InputSpec, Normalization]:
        """How images become its input. Raises UsageError for an ONNX file, which does not say."""
        if self.folder is None:
            raise UsageError(
                f"{self.path} does not say how its input is prepared", hint="give a bundle or a run's folder"
            )
        entry = self.manifest["input"]
        try:
            mean, std = (tuple(map(float, entry[key])) for key in ("mean", "std"))
            return InputSpec(*self.shape), Normalization("manifest", float(entry["range"][1]) / 255, mean, std)
        except (KeyError, TypeError, ValueError) as error:
            raise VerificationFailed(
                f"{self.folder / 'manifest.json'} is not of this program's form: {type(error).__name__}: {error}",
                hint="make the bundle anew with compress run",
            ) from error

    def resident(self, folder: Path) -> LoadedModel:
        """What a backend opens: the bundle's file, or an ONNX file's judged bytes, written into ``folder``.

        Of an ONNX file's own path a runtime would look for weights beside it.
        """
        path = folder / f"{self.sha256}.onnx" if self.folder is None else self.folder / self._loaded
        if self.folder is None:
            path.write_bytes(self.content)
        return LoadedModel(path, self.backend or "onnxruntime", self.shape)

    @property
    def _loaded(self) -> str:
        """The file that its runtime loads: its engine, where the bundle has one of its own."""
        engine = str((self.manifest.get("engine") or {}).get("file") or "")
        return engine if engine in self.manifest["files"] else "model.onnx"

    def files(self) -> dict[str, bytes]:
        """What a board needs of it, by name: the bundle as it is, or the model and the little that its runner reads."""
        if self.folder is None:
            return {"model.onnx": self.content, "manifest.json": json.dumps(self.manifest).encode()}
        names = [*self.manifest["files"], "manifest.json"]
        return {name: (self.folder / name).read_bytes() for name in names}


def _size(dims: list[int | str], path: Path, input: InputSpec | None) -> tuple[int, ...]:
    """The size of one sample; what the model leaves open is taken from ``input``, which must fit the rest."""
    open_ones = any(not isinstance(dim, int) or dim < 1 for dim in dims[1:])
    if input is None:
        if open_ones:
            raise UsageError(f"{path} leaves the size of its input open: {dims}", hint="--input CxHxW")
        return tuple(int(dim) for dim in dims[1:])
    if len(dims) != 4 or any(isinstance(d, int) and d != size for d, size in zip(dims[1:], input.shape, strict=True)):
        raise UsageError(f"{path} takes no input of {input}, but {dims[1:]}", hint="leave --input out, or change it")
    return input.shape


def same_input(subjects: list[BenchModel]) -> None:
    """Raise UsageError where models that are compared take inputs of different sizes."""
    if len({subject.shape for subject in subjects}) > 1:
        told = " and ".join(f"{'x'.join(map(str, s.shape))} ({s.path})" for s in subjects)
        raise UsageError(f"the inputs differ: {told}", hint="compare models of one task")
