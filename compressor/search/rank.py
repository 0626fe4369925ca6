"""``compress rank``: how promising untrained students are, with counts beside the score."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor import catalog
from compressor.core import InputSpec, Json, Progress, UsageError
from compressor.data import PhotographSource, Prepared, PreparedSource, Source, default_size, load_data
from compressor.models.common.family import Architecture, Family
from compressor.models.common.layers import count
from compressor.models.common.space import Space
from compressor.preprocessing import parse_normalization
from compressor.scores.common.probe import Batch, View
from compressor.search.batch import of_split
from compressor.search.ranking import WEIGHTS, blend
from compressor.search.scoring import Scoring, applicable, seeds_of, teacher_view

__all__ = ["rank"]

SAMPLES = 64
"""Images of the batch that candidates are shown (DisWOT: 64 to 128)."""
INITS = 3
"""Random initialisations that a candidate's scores are averaged over."""
_MOST = 100_000


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

    ``scores`` has the default, its components, and those named in ``also``. Without a teacher the
    default is made of the components that need none. Raises UsageError for encodings that are none.
    """
    family: type[Family] = catalog.find("models", space)
    also = tuple(name for name in also if name != "default")
    for name in also:
        catalog.find("scores", name)
    encodings = _read(archs)
    source = load_data(data)
    images = source.targets == "images"
    if images != (family.task == "super-resolution"):
        raise UsageError(f"{data} has {source.targets}, and students of {space} are for {family.task}", hint="name other data")
    input = InputSpec(3, family.input_size, family.input_size) if images else input_of(source)
    classes = input.channels if images else len(source.classes)
    students = [_decode(family, encoding, input, classes, archs, i) for i, encoding in enumerate(encodings)]
    scaling = "unit" if images else "imagenet" if input.channels == 3 else "symmetric"
    normalization = parse_normalization(scaling, input.channels)
    prepared: Prepared | PreparedSource
    if isinstance(source, PhotographSource):
        prepared = source.prepare(input, normalization, "input", _upscale_factor(students, archs))
    else:
        prepared = source.prepare(input, normalization, "input")
    batch = of_split(prepared.train or prepared.evaluate, SAMPLES, seed)
    view = None if teacher is None else _view(teacher, arch, trust, batch, classes, seed)
    names = tuple(dict.fromkeys([*WEIGHTS, *also]))  # each once
    if unmet := [name for name in also if name not in applicable(also, view, images=images)]:
        raise UsageError(
            f"score {unmet[0]!r} compares with a teacher" + (", and classes" if images else ""),
            hint="leave it out" if images and view is not None else "give --teacher MODEL",
        )
    scoring = Scoring(
        applicable(names, view, images=images), input, batch, view, seeds_of(seed, INITS), len(os.sched_getaffinity(0))
    )
    scored = scoring(students, progress)
    default: Sequence[float] = list(blend({name: [s[name] for s in scored] for name in scoring.names}))
    rows = []
    for encoding, student, scores, best in zip(encodings, students, scored, default, strict=True):
        cost = count(student, input)
        rows.append(
            {
                "arch": encoding,
                "params": cost.params,
                "macs": cost.macs,
                "scores": {"default": float(best), **{name: _finite(value) for name, value in scores.items()}},
            }
        )
    return rows


def _upscale_factor(students: Sequence[Architecture], path: Path) -> int:
    """The upscale factor of all of them. Raises UsageError where they differ."""
    factors = {int(getattr(student, "enlarges", 1)) for student in students}
    if len(factors) > 1:
        raise UsageError(f"{path} has students of different scales", hint="rank those of one scale at a time")
    (factor,) = factors
    return factor


def input_of(source: Source | PhotographSource) -> InputSpec:
    """The size at which students of this data are judged: the images' own if they are small."""
    size = default_size(source)
    assert size is not None
    return InputSpec(source.size.channels if source.size is not None else 3, *size)


def _view(path: Path, arch: str | None, trust: bool, batch: Batch, classes: int, seed: int) -> View:
    from compressor.frontend import load_checkpoint

    view = teacher_view(load_checkpoint(path, arch=arch, trust=trust).build(), batch, seed)
    if view is None:
        raise UsageError(f"{path}: which of its tensors are feature maps is not told", hint="leave out --teacher")
    if view.logits.ndim == 2 and view.logits.shape[1] != classes:
        raise UsageError(
            f"the teacher tells {view.logits.shape[1]} classes apart, the data has {classes}",
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
    try:
        return Space(family).decode(encoding, input, classes)
    except UsageError as error:
        raise UsageError(f"{path}: entry {index}: {error.what}", hint=error.hint) from error


def _finite(value: float) -> float | None:
    """JSON has no infinities."""
    return value if math.isfinite(value) else None
