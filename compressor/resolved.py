"""``resolved.toml``: the plan as it ran, as a profile that runs it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from compressor.core import Artifact, Json
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
    options |= {"input": str(artifact.teacher.input), "seed": plan.seed, "device": plan.device}
    options["normalize"] = artifact.teacher.normalization.name
    passes = [{"kind": done.kind, **_without_none({**done.settings, **done.pinned})} for done in artifact.log]
    profile = {"name": plan.profile.name, "title": plan.profile.title, "resolved": True}
    return tomli_w.dumps({**profile, "options": options, "pass": passes})


def _without_none(table: Json) -> Json:
    """Drop the keys of a table, and of tables in it, whose value is None, which TOML cannot express."""
    if isinstance(table, Mapping):
        return {key: _without_none(value) for key, value in table.items() if value is not None}
    return table
