"""The settings of passes: from a profile, changed by ``--set`` and by the run's budgets."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from compressor import catalog
from compressor.core import Json, Pass, PassSpec, UsageError
from compressor.options import Options

__all__ = ["apply_settings", "make_pass", "settings_of"]


def apply_settings(specs: Sequence[PassSpec], assignments: Sequence[str]) -> tuple[PassSpec, ...]:
    """Apply each ``--set PASS.FIELD=VALUE`` to every pass of that kind.

    VALUE is read as TOML; what is no TOML is taken as text. FIELD may be ``field.key`` of a table.
    Raises UsageError for another form, and where the profile has no such pass.
    """
    changed = list(specs)
    for text in assignments:
        path, equals, value = text.partition("=")
        kind, dot, field = path.partition(".")
        field, nested, key = field.partition(".")
        if not (equals and dot and field):
            raise UsageError(
                f"not a setting: {text!r}", hint="write --set pass.field=value, such as quantize.samples=100"
            )
        positions = [i for i, spec in enumerate(changed) if spec.kind == kind]
        if not positions:
            raise catalog.unknown("pass of this profile", kind, [spec.kind for spec in changed])
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        for i in positions:
            before = changed[i].settings.get(field)
            table = {**(before if isinstance(before, Mapping) else {}), key: parsed}
            changed[i] = PassSpec(kind, {**changed[i].settings, field: table if nested else parsed})
    return tuple(changed)


def make_pass(spec: PassSpec, profile: str, options: Options) -> Pass:
    """Make a pass from its entry in ``profile``, under the run's budgets.

    The run's ``--budget`` replaces a pass's own budget; its ``--set PASS.budget`` comes before both. A pass that has
    no budget, by default or by its profile, gets none. A budget that was asked for is not soft.
    Raises UsageError for an unknown pass, setting or value.
    """
    cls, settings = catalog.find("passes", spec.kind), dict(spec.settings)
    if settings.get("budget", getattr(cls, "budget", ())):
        set_here = {text.partition("=")[0] for text in options.set or ()}
        own_budget = f"{spec.kind}.budget" in set_here
        if options.budget and not own_budget:
            settings["budget"] = options.budget
        if (options.budget or own_budget) and f"{spec.kind}.soft_budget" not in set_here:
            settings.pop("soft_budget", None)  # the profile's own budget may be soft
    made: Pass = catalog.make(cls, settings, f"pass {spec.kind!r} of profile {profile!r}")
    return made


def settings_of(each: Any) -> Mapping[str, Json]:
    """Return all settings of a pass, defaults included."""
    return dataclasses.asdict(each)
