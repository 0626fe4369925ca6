"""``resolved.toml``: the plan as it ran, as a profile that runs it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from compressor.core import Artifact, Json, Model
from compressor.plan import Plan

__all__ = ["resolved_toml"]


def resolved_toml(plan: Plan, artifact: Artifact) -> str:
    """Return the plan of a finished run as TOML.

    Paths are absolute. What the run found out is written as if it had been given: input size, normalisation, seed,
    device, and the settings that passes pinned.
    """
    import tomli_w

    options = _without_none({k: v for k, v in dataclasses.asdict(plan.options).items() if k not in ("profile", "set")})
    for name in ("data", "eval", "target"):
        if name in options and Path(options[name]).exists() and (name != "target" or options[name].endswith(".toml")):
            options[name] = str(Path(options[name]).resolve())
    if plan.teachers:
        options["teacher"] = [str(path.resolve()) for path in plan.teachers]
    options |= {"input": _inputs(artifact.teacher, plan), "seed": plan.seed, "device": plan.device}
    if artifact.teacher.normalization is not None:
        found = artifact.teacher.normalization
        options |= {"normalize": found.name, "channels": found.channels, "layout": found.layout}
    passes = [{"kind": done.kind, **_without_none({**done.settings, **done.pinned})} for done in artifact.log]
    profile = {"name": plan.profile.name, "title": plan.profile.title, "resolved": True}
    return tomli_w.dumps({**profile, "options": options, "pass": passes})


def _inputs(teacher: Model, plan: Plan) -> list[str]:
    """``--input`` as it was given, else the sizes of one sample that were found."""
    if plan.options.input:
        return list(plan.options.input)
    shapes, signature = teacher.feed_shapes, teacher.signature
    rows = 0 if signature.batch is None and signature.samples != 1 else 1
    names = [spec.name for spec in signature.inputs]
    types = ["" if spec.dtype == "float32" else f":{spec.dtype}" for spec in signature.inputs]
    sizes = ["x".join(map(str, shapes[name][rows:])) + dtype for name, dtype in zip(names, types, strict=True)]
    if len(names) == 1:
        return [size for size in sizes if size]
    return [f"{name}={size}" for name, size in zip(names, sizes, strict=True) if size]


def _without_none(table: Json) -> Json:
    """Drop the keys of a table, and of tables in it, whose value is None, which TOML cannot express."""
    if isinstance(table, Mapping):
        return {key: _without_none(value) for key, value in table.items() if value is not None}
    return table
