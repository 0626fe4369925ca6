"""manifest.json: what a bundle holds, what its network takes and gives, and which file its runtime loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.atomic import write
from compressor.bundle._manifest_form import (
    DamagedManifest,
    checked_axes,
    checked_file,
    checked_list,
    checked_map,
    checked_number,
    checked_ranges,
    checked_size,
    checked_specs,
    checked_text,
)
from compressor.core import Engine, Json, Metric, Normalization, Signature, UsageError, VerificationFailed

__all__ = ["EngineEntry", "Golden", "ImageInput", "Manifest", "bundle_folder"]

SCHEMA_VERSION = 2
NAME = "manifest.json"
_MODEL = "model.onnx"
_LONGEST = 16 << 20
"""Bytes of a manifest."""
_REMAKE = "make the bundle anew with compress run"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """How 8-bit pixels become the image input: ``(pixel * range[1] / 255 - mean) / std``, then order and layout."""

    name: str
    """The input's."""
    range: tuple[float, float]
    mean: tuple[float, ...]
    """One number each for red, green and blue, or one for grey; ``std`` likewise."""
    std: tuple[float, ...]
    layout: str = "NCHW"
    """``NCHW`` or ``NHWC``."""
    channels: str = "rgb"
    """The order of the channels that the network takes, ``rgb`` or ``bgr``."""

    @classmethod
    def of(cls, name: str, normalization: Normalization) -> ImageInput:
        """Return the entry of input ``name``, prepared by ``normalization``."""
        given = normalization
        return cls(name, given.range, given.mean, given.std, given.layout.upper(), given.channels)

    @property
    def normalization(self) -> Normalization:
        return Normalization("manifest", self.range[1] / 255, self.mean, self.std, self.channels, self.layout.lower())


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """What the target's runtime loads."""

    status: str
    """``ready``, or ``pending`` until ``todo`` is done."""
    backend: str
    file: str
    """The name of the file that the runtime loads; of a graph beside ``build_engine.py`` an engine is built first."""
    todo: str | None = None
    facts: Mapping[str, Json] = field(default_factory=dict)
    """As in `compressor.core.Engine`."""

    @classmethod
    def of(cls, engine: Engine, graph: Path) -> EngineEntry:
        """Return the entry of ``engine``; ``graph`` is the file that becomes the bundle's model.onnx."""
        file = _MODEL if engine.path == graph else engine.path.name
        return cls(engine.status, engine.backend, file, engine.todo, dict(engine.facts))


@dataclass(frozen=True, slots=True)
class Golden:
    """The samples that travel with a bundle, and by how much each output may differ from theirs."""

    samples: int
    tolerance: Mapping[str, float]
    """The largest absolute difference, by output name."""


@dataclass(frozen=True)
class Manifest:
    """The parts of manifest.json. ``golden`` and ``files`` are filled in when the bundle is written."""

    task: Mapping[str, Json]
    """``kind`` and the task's facts."""
    target: str
    precision: Mapping[str, Json]
    """``asked``, ``realised`` and ``from``."""
    opset: int
    signature: Signature
    sizes: Mapping[str, int]
    """The usual size of each free axis."""
    engine: EngineEntry
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The least and the most that a free axis may be, where that was said; an engine is built for all of it."""
    image: ImageInput | None = None
    """None where no input is an image, or its preparation is not known."""
    versions: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Json] = field(default_factory=dict)
    evaluation: Mapping[str, Json] | None = None
    """``fingerprint`` and ``metric``; None where nothing was judged."""
    golden: Golden = field(default_factory=lambda: Golden(0, {}))
    files: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """``sha256`` and ``bytes`` by name."""

    @classmethod
    def of_graph(cls, signature: Signature, sizes: Mapping[str, int]) -> Manifest:
        """Return the manifest of an ONNX file alone: all that the runner needs in order to run model.onnx."""
        return cls({"kind": ""}, "", {}, 0, signature, sizes, EngineEntry("ready", "onnxruntime", _MODEL))

    @property
    def normalization(self) -> Normalization | None:
        """How 8-bit pixels become the image input; None where there is none."""
        return self.image.normalization if self.image else None

    @property
    def metric(self) -> Metric | None:
        """The task's figure, and the samples it is of."""
        return None if self.evaluation is None else Metric(**self.evaluation["metric"])

    @property
    def engine_file(self) -> str:
        """The name of the file that the target's runtime loads."""
        return self.engine.file

    @property
    def feed_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one run's inputs at the usual sizes, by name."""
        return self.signature.feeds_of(self.sizes)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a bundle's folder.

        Raises UsageError where there is none or it cannot be read, VerificationFailed where it is damaged or of
        another version. Hashes are not looked at: see `compressor.bundle.verify_bundle`.
        """
        path = folder / NAME
        if not path.is_file():
            raise UsageError(f"{folder} is not a bundle: it has no {NAME}", hint="name a run's folder or its bundle")
        try:
            if path.stat().st_size > _LONGEST:
                raise VerificationFailed(f"{path} has {path.stat().st_size:,} bytes", hint=_REMAKE)
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
        except DamagedManifest as error:
            raise VerificationFailed(f"{path}: {error}", hint=_REMAKE) from error
        except (ValueError, RecursionError) as error:
            raise VerificationFailed(f"{NAME} cannot be read: {error}", hint="copy the bundle whole") from error

    def write(self, folder: Path) -> None:
        """Write manifest.json into ``folder``. Raises ValueError for numbers that are not finite."""
        write(folder / NAME, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    def to_json(self) -> dict[str, Json]:
        """Return the document: JSON values only."""
        image = None if self.image is None else {
            "layout": self.image.layout,
            "channels": self.image.channels,
            "range": list(self.image.range),
            "mean": list(self.image.mean),
            "std": list(self.image.std),
        }  # fmt: skip
        name = self.image.name if self.image else None
        tensors = self.signature.to_json()
        inputs = [entry | (image or {}) if entry["name"] == name else entry for entry in tensors["inputs"]]
        return {
            "schema_version": SCHEMA_VERSION,
            "task": dict(self.task),
            "target": self.target,
            "precision": dict(self.precision),
            "opset": self.opset,
            "inputs": inputs,
            "outputs": tensors["outputs"],
            "input": next((entry for entry in inputs if entry["name"] == name), None),
            "sizes": dict(self.sizes),
            "ranges": {axis: list(bounds) for axis, bounds in self.ranges.items()},
            "versions": dict(self.versions),
            "provenance": dict(self.provenance),
            "evaluation": None if self.evaluation is None else dict(self.evaluation),
            "engine": {
                "status": self.engine.status,
                "backend": self.engine.backend,
                "file": self.engine.file,
                "todo": self.engine.todo,
                "facts": dict(self.engine.facts),
            },
            "golden": {"samples": self.golden.samples, "tolerance": dict(self.golden.tolerance)},
            "files": {name: dict(entry) for name, entry in self.files.items()},
        }

    @classmethod
    def from_json(cls, document: Json) -> Manifest:
        """Read what `to_json` gives. Raises DamagedManifest, a ValueError, that names the part that is wrong."""
        whole = checked_map(document, "the manifest")
        if (version := whole.get("schema_version")) != SCHEMA_VERSION:
            raise DamagedManifest(f"its schema_version is {version!r}, and this program reads {SCHEMA_VERSION}")
        try:
            signature = Signature(checked_specs(whole, "inputs"), checked_specs(whole, "outputs"))
            files = {name: checked_file(name, entry) for name, entry in checked_map(whole["files"], "files").items()}
            manifest = cls(
                task=checked_map(whole["task"], "task"),
                target=checked_text(whole["target"], "target"),
                precision=checked_map(whole["precision"], "precision"),
                opset=checked_size(whole["opset"], "opset"),
                signature=signature,
                sizes=checked_axes(whole["sizes"], signature),
                ranges=checked_ranges(whole["ranges"]),
                engine=_engine(checked_map(whole["engine"], "engine"), files),
                image=_image(whole, signature),
                versions=checked_map(whole["versions"], "versions"),
                provenance=checked_map(whole["provenance"], "provenance"),
                evaluation=_evaluation(whole["evaluation"]),
                golden=_golden(checked_map(whole["golden"], "golden"), signature),
                files=files,
            )
            checked_text(manifest.task["kind"], "task.kind")
            return manifest
        except KeyError as error:
            raise DamagedManifest(f"it lacks {error.args[0]!r}") from error


def bundle_folder(path: Path) -> Path:
    """Return the bundle that ``path``, a bundle or a run's folder, names. Raises UsageError where there is none."""
    try:
        for folder in (path / "bundle", path):
            if (folder / NAME).is_file():
                return folder
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint="check its name and permissions") from error
    raise UsageError(f"{path} is not a bundle: it has no {NAME}", hint="name a run's folder or its bundle")


def _engine(entry: Mapping[str, Any], files: Mapping[str, Any]) -> EngineEntry:
    status, file = entry["status"], checked_text(entry["file"], "engine.file")
    if status not in ("ready", "pending"):
        raise DamagedManifest(f"engine.status is {status!r}, not ready or pending")
    if file not in files:
        raise DamagedManifest(f"engine.file is {file!r}, which is not among its files")
    todo = None if entry["todo"] is None else checked_text(entry["todo"], "engine.todo")
    backend = checked_text(entry["backend"], "engine.backend")
    return EngineEntry(status, backend, file, todo, checked_map(entry["facts"], "engine.facts"))


def _image(whole: Mapping[str, Any], signature: Signature) -> ImageInput | None:
    if whole["input"] is None:
        return None
    entry = checked_map(whole["input"], "input")
    if entry not in whole["inputs"]:
        raise DamagedManifest("input is not the entry of one of its inputs")
    layout, channels = entry["layout"], entry["channels"]
    if layout not in ("NCHW", "NHWC") or channels not in ("rgb", "bgr"):
        raise DamagedManifest(f"the image input has the layout {layout!r} with the channels {channels!r}")
    numbers = {
        key: tuple(checked_number(each, f"input.{key}") for each in checked_list(entry[key], f"input.{key}"))
        for key in ("range", "mean", "std")
    }
    shape = next(spec.shape for spec in signature.inputs if spec.name == entry["name"])
    count = shape[1 if layout == "NCHW" else 3] if len(shape) == 4 else None
    if not len(numbers["mean"]) == len(numbers["std"]) == count or 0.0 in numbers["std"]:
        raise DamagedManifest(f"input.mean and input.std do not fit an input of {count} channels")
    if len(numbers["range"]) != 2:
        raise DamagedManifest("input.range is no pair of numbers")
    low, high = numbers["range"]
    return ImageInput(entry["name"], (low, high), numbers["mean"], numbers["std"], layout, channels)


def _evaluation(entry: Json) -> Mapping[str, Json] | None:
    if entry is None:
        return None
    evaluation = checked_map(entry, "evaluation")
    try:
        metric = Metric(**checked_map(evaluation["metric"], "evaluation.metric"))
    except TypeError as error:
        raise DamagedManifest(f"evaluation.metric is none: {error}") from error
    checked_number(metric.value, "evaluation.metric.value")
    return evaluation


def _golden(entry: Mapping[str, Any], signature: Signature) -> Golden:
    tolerance = {
        name: checked_number(value, f"golden.tolerance.{name}")
        for name, value in checked_map(entry["tolerance"], "golden.tolerance").items()
    }
    if set(tolerance) != {spec.name for spec in signature.outputs} or min(tolerance.values()) < 0:
        raise DamagedManifest("golden.tolerance has no number of 0 or more for each output")
    return Golden(checked_size(entry["samples"], "golden.samples"), tolerance)
