"""``compress rank``: scores of untrained students, and their counts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor import catalog
from compressor.core import InputSpec, Json, Progress, Split, UsageError
from compressor.data import AnySource, FeedSource, PhotographSource, default_size, load_data
from compressor.models.common.family import Architecture, Family, classifies
from compressor.models.common.layers import count, layers
from compressor.models.common.space import Space
from compressor.preprocessing import parse_normalization
from compressor.scores.common.probe import Batch, View
from compressor.search.batch import of_split
from compressor.search.ranking import WEIGHTS, blend
from compressor.search.scoring import Scoring, applicable, seeds_of, teacher_view

__all__ = ["rank"]

SAMPLES = 64
"""Images of the batch that candidates are scored on (DisWOT: 64 to 128)."""
INITS = 3
"""Random initialisations that a candidate's scores are averaged over."""
_MOST = 100_000
"""Students of one call, at most."""
_MOST_PARAMS, _MOST_VALUES = 250_000_000, 2**23
"""Parameters of a student, and values of its largest feature map for one image, at most: 1 and 2 GB for the batch."""


def rank(
    archs: Path,
    space: str,
    data: str,
    *,
    teacher: Path | None = None,
    arch: str | None = None,
    also: Sequence[str] = (),
    seed: int = 0,
    trust: bool = False,
    progress: Progress,
) -> list[dict[str, Json]]:
    """Score every encoding of a JSON list, in its order: ``{"arch", "params", "macs", "scores"}``; higher is better.

    ``scores`` has the default score, its components, and the scores named in ``also``. Without a teacher the default
    is blended of the components that need none. Raises UsageError for what is no encoding of a network of ``space``,
    for a network too large to be scored, and for scores that cannot be computed.
    """
    family: type[Family] = catalog.find("models", space)
    also = tuple(name for name in also if name != "default")
    for name in also:
        catalog.find("scores", name)
    encodings = _read(archs)
    source = load_data(data)
    images = source.targets == "images"
    input = InputSpec(3, family.input_size, family.input_size) if images else input_of(source)
    classes = input.channels if images else len(source.classes)
    students = [_decode(family, encoding, input, classes, archs, i) for i, encoding in enumerate(encodings)]
    if classifies(students[0]) == images:
        kinds = ("photographs", "are classifiers") if images else ("images of classes", "make images")
        raise UsageError(f"{data} has {kinds[0]}, and students of {space} {kinds[1]}", hint="name other data")
    batch = of_split(_split(source, input, students, archs), SAMPLES, seed)
    view = None if teacher is None else _view(teacher, arch, trust, batch, classes, seed)
    scoring = Scoring(
        _names(also, view, images), input, batch, view, seeds_of(seed, INITS), len(os.sched_getaffinity(0))
    )
    scored = scoring(students, progress)
    default = blend({name: [s[name] for s in scored] for name in scoring.names})
    rows = []
    for encoding, student, scores, best in zip(encodings, students, scored, default, strict=True):
        cost = count(student, input)
        all_scores = {"default": float(best), **{name: _finite(value) for name, value in scores.items()}}
        rows.append({"arch": encoding, "params": cost.params, "macs": cost.macs, "scores": all_scores})
    return rows


def input_of(source: AnySource) -> InputSpec:
    """Return the size at which students of this data are judged: that of its images, where they are small.

    Raises UsageError for data without images.
    """
    size = default_size(source)
    if size is None:
        raise UsageError("students take images, and the data are arrays by input name", hint="give images: --data")
    return InputSpec(source.size.channels if source.size is not None else 3, *size)


def _split(source: AnySource, input: InputSpec, students: Sequence[Architecture], path: Path) -> Split:
    """Return the samples that the batch is drawn from, prepared for the students."""
    if isinstance(source, PhotographSource):
        factors = {getattr(student, "upscale_factor", 1) for student in students}
        if len(factors) > 1:
            raise UsageError(f"{path} has students of different scales", hint="rank those of one scale at a time")
        pairs = source.prepare(input, parse_normalization("unit", input.channels), "input", factors.pop())
        return pairs.train or pairs.evaluate
    assert not isinstance(source, FeedSource)  # `input_of` refused it
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


def _decode(
    family: type[Family], encoding: Mapping[str, Any], input: InputSpec, classes: int, path: Path, index: int
) -> Architecture:
    """Return the architecture of an entry. Raises UsageError naming the entry that is none, or is too large."""
    try:
        student = Space(family).decode(encoding, input, classes)
        _check_size(student, input)
    except UsageError as error:
        raise UsageError(f"{path}: entry {index}: {error.what}", hint=error.hint) from error
    return student


def _check_size(student: Architecture, input: InputSpec) -> None:
    """Raise UsageError for a network that would fill the memory of a workstation."""
    hint = "rank networks that a device could run: correct the widths or depths"
    if (params := count(student, input).params) > _MOST_PARAMS:
        raise UsageError(f"the network has {params:,} parameters, more than {_MOST_PARAMS:,}", hint=hint)
    largest = max(layer.outputs * math.prod(layer.output_size) for layer in layers(student, input))
    if largest > _MOST_VALUES:
        raise UsageError(f"a feature map has {largest:,} values for one image, more than {_MOST_VALUES:,}", hint=hint)


def _finite(value: float) -> float | None:
    """Return a number that JSON has: no infinity."""
    return value if math.isfinite(value) else None
