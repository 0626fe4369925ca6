"""``compress rank``: scores of untrained students, and their counts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor import catalog
from compressor.core import InputSpec, Json, Progress, Split, UsageError
from compressor.data import FeedSource, MaskSource, PhotographSource, Source, default_size, load_data
from compressor.models.common.family import Buildable, classifies
from compressor.models.common.layers import count, layers
from compressor.models.common.space import Space
from compressor.preprocessing import parse_normalization
from compressor.scores.common.probe import Batch, View
from compressor.search.batch import of_split, samples_of
from compressor.search.ranking import WEIGHTS, blend
from compressor.search.scoring import Scoring, applicable, seeds_of, teacher_view
from compressor.search.user_network import UserNetwork

__all__ = ["rank"]

INITS = 3
"""Random initialisations that a candidate's scores are averaged over."""
_MOST = 100_000
"""Students of one call, at most."""
_MOST_PARAMS, _MOST_VALUES = 250_000_000, 2**23
"""Parameters of a student, and values of its largest feature map for one image, at most: 1 and 2 GB for the batch."""


def rank(
    archs: Path,
    space: str | None,
    data: str,
    *,
    input: InputSpec | None = None,
    teacher: Path | None = None,
    arch: str | None = None,
    also: Sequence[str] = (),
    seed: int = 0,
    trust: bool = False,
    progress: Progress,
) -> list[dict[str, Json]]:
    """Score every entry of a JSON list, in its order: ``{"arch", "params", "macs", "scores"}``; higher is better.

    An entry is an encoding of a network of ``space``, or names the user's own: ``{"arch": "module:callable(1)"}``.
    ``scores`` has the default score, its components, and the scores named in ``also``. ``input`` is by default the
    data's. Raises UsageError for an entry that makes no network, for a network that is too large to be scored, and for
    scores that cannot be computed.
    """
    also = tuple(name for name in also if name != "default")
    for name in also:
        catalog.find("scores", name)
    if space is not None:
        catalog.find("models", space)
    entries = _read(archs)
    source = load_data(data)
    if isinstance(source, FeedSource | MaskSource):
        held = "arrays by input name" if isinstance(source, FeedSource) else "images with masks"
        raise UsageError(
            f"students are ranked on images of classes, or photographs; the data are {held}", hint="give such --data"
        )
    candidates = _Candidates(archs, space, source, input or _input(space, source, entries))
    networks = [candidates.network(entry, index) for index, entry in enumerate(entries)]
    images = candidates.check_task(networks, data)
    batch = of_split(_split(source, candidates.input, networks, archs), samples_of(candidates.input), seed)
    view = None if teacher is None else _view(teacher, arch, trust, batch, candidates.classes, seed)
    scoring = Scoring(
        _names(also, view, images), candidates.input, batch, view, seeds_of(seed, INITS), len(os.sched_getaffinity(0))
    )
    scored = scoring(networks, progress)
    default = blend({name: [s[name] for s in scored] for name in scoring.names})
    rows = []
    for entry, network, scores, best in zip(entries, networks, scored, default, strict=True):
        cost = count(network, candidates.input)
        all_scores = {"default": float(best), **{name: _finite(value) for name, value in scores.items()}}
        rows.append({"arch": _as_given(entry), "params": cost.params, "macs": cost.macs, "scores": all_scores})
    return rows


@dataclass(frozen=True)
class _Candidates:
    """How the entries of a list are read."""

    path: Path
    space: str | None
    source: Source | PhotographSource
    input: InputSpec

    @property
    def classes(self) -> int:
        return self.input.channels if self.source.targets == "images" else len(self.source.classes)

    def network(self, entry: Mapping[str, Any], index: int) -> Buildable:
        """Return the network of an entry. Raises UsageError naming the entry that is none, or is too large."""
        try:
            network = self._network(entry)
            _check_size(network, self.input)
        except UsageError as error:
            raise UsageError(f"{self.path}: entry {index}: {error.what}", hint=error.hint) from error
        return network

    def _network(self, entry: Mapping[str, Any]) -> Buildable:
        if _is_code(entry):
            return UserNetwork(entry["arch"], str(Path.cwd()))
        if self.space is None:
            raise UsageError(
                "it names no code of yours, and no space is named",
                hint='give --space with encodings, or write {"arch": "package.module:callable(arguments)"}',
            )
        return Space(catalog.find("models", self.space)).decode(entry, self.input, self.classes)

    def check_task(self, networks: Sequence[Buildable], data: str) -> bool:
        """Tell whether the networks make images. Raises UsageError where those of the space do not fit the data."""
        photographs = self.source.targets == "images"
        known = next((each for each in networks if not isinstance(each, UserNetwork)), None)
        if known is None or classifies(known) != photographs:  # type: ignore[arg-type]
            return photographs and known is not None
        kinds = ("photographs", "are classifiers") if photographs else ("images of classes", "make images")
        raise UsageError(f"{data} has {kinds[0]}, and students of {self.space} {kinds[1]}", hint="name other data")


def _is_code(entry: Mapping[str, Any]) -> bool:
    return set(entry) == {"arch"} and isinstance(entry["arch"], str)


def _as_given(entry: Mapping[str, Any]) -> Json:
    """Return what ``arch`` shows of an entry: the code's name, or the encoding."""
    shown: Json = entry["arch"] if _is_code(entry) else entry
    return shown


def _input(space: str | None, source: Source | PhotographSource, entries: Sequence[Mapping[str, Any]]) -> InputSpec:
    """Return the input that is not given: the data's size or, for photographs, the family's."""
    if isinstance(source, Source):
        size = default_size(source)
        assert size is not None
        return InputSpec(source.size.channels if source.size is not None else 3, *size)
    if space is None or any(map(_is_code, entries)):
        raise UsageError("photographs have no size of their own", hint="give the networks' input: --input 3x64x64")
    side = catalog.find("models", space).input_size
    return InputSpec(3, side, side)


def _split(source: Source | PhotographSource, input: InputSpec, students: Sequence[Buildable], path: Path) -> Split:
    """Return the samples that the batch is drawn from, prepared for the students."""
    if isinstance(source, PhotographSource):
        factors = {getattr(student, "upscale_factor", 1) for student in students}
        if len(factors) > 1:
            raise UsageError(f"{path} has students of different scales", hint="rank those of one scale at a time")
        pairs = source.prepare(input, parse_normalization("unit", input.channels), "input", factors.pop())
        return pairs.train or pairs.evaluate
    name = "imagenet" if input.channels == 3 else "symmetric"
    prepared = source.prepare(input, parse_normalization(name, input.channels), "input")
    return prepared.train or prepared.evaluate


def _names(also: Sequence[str], view: View | None, images: bool) -> tuple[str, ...]:
    """Return the scores to compute. Raises UsageError where one of ``also`` cannot be computed."""
    possible = applicable(also, view, images=images)
    if unmet := [name for name in also if name not in possible]:
        raise UsageError(
            f"score {unmet[0]!r} compares with a teacher" + (", and classes" if images else ""),
            hint="leave it out" if images and view is not None else "give --teacher MODEL",
        )
    return applicable(tuple(dict.fromkeys([*WEIGHTS, *also])), view, images=images)


def _view(path: Path, arch: str | None, trust: bool, batch: Batch, classes: int, seed: int) -> View:
    from compressor.frontend import load_checkpoint

    view = teacher_view(load_checkpoint(path, arch=arch, trust=trust).build(), batch, seed)
    if view is None:
        raise UsageError(f"{path}: it is not known which of its tensors are feature maps", hint="leave out --teacher")
    if view.logits.ndim == 2 and view.logits.shape[1] != classes:
        raise UsageError(
            f"the teacher has {view.logits.shape[1]} classes, the data has {classes}",
            hint="give the data that the teacher was trained for",
        )
    return view


def _read(path: Path) -> list[Mapping[str, Any]]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a JSON list of encodings") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", hint="write a list of encodings: [{…}, {…}]") from error
    if not isinstance(listed, list) or not listed or not all(isinstance(each, dict) for each in listed):
        raise UsageError(f"{path} is not a list of encodings", hint="write [{…}, {…}], one object a student")
    if len(listed) > _MOST:
        raise UsageError(f"{path} lists {len(listed):,} students", hint=f"rank {_MOST:,} at most at a time")
    return listed


def _check_size(student: Buildable, input: InputSpec) -> None:
    """Raise UsageError for a network that would fill the memory of a workstation."""
    hint = "rank networks that a device could run: correct the widths or depths"
    if (params := count(student, input).params) > _MOST_PARAMS:
        raise UsageError(f"the network has {params:,} parameters, more than {_MOST_PARAMS:,}", hint=hint)
    largest = max((layer.outputs * math.prod(layer.output_size) for layer in layers(student, input)), default=0)
    if largest > _MOST_VALUES:
        raise UsageError(f"a feature map has {largest:,} values for one image, more than {_MOST_VALUES:,}", hint=hint)


def _finite(value: float) -> float | None:
    """Return a number that JSON has: no infinity."""
    return value if math.isfinite(value) else None
