"""From what the user asked for to a plan that is known to be able to finish."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from compressor import catalog
from compressor.bench.machine import machine
from compressor.bench.ssh import Board
from compressor.budgets import Budget
from compressor.core import SLOTS, InputSpec, Json, Pass, PassSpec, Profile, PlanContext, Target, Unavailable, UsageError
from compressor.frontend import opened

if TYPE_CHECKING:
    from compressor.data import PhotographSource, Source

__all__ = ["Options", "Plan", "at_hand", "make_plan"]

_PREFERRED = {"classification": "balanced", "super-resolution": "super-resolution"}
"""The profile taken where there is data and none is named."""


@dataclass(frozen=True, slots=True)
class Options:
    """What can be said of a run, on the command line, in compress.toml or in a profile; None: not said."""

    target: str | None = None
    profile: str | None = None
    arch: str | None = None
    data: str | None = None
    eval: str | None = None
    input: str | None = None
    normalize: str | None = None
    budget: tuple[str, ...] | None = None
    max_drop: float | None = None
    set: tuple[str, ...] | None = None
    seed: int | None = None
    device: str | None = None
    board: str | None = None


@dataclass(frozen=True)
class Plan:
    """A run, resolved and checked: everything that `compressor.pipeline` does is in here."""

    model: Path
    target: Target
    profile: Profile
    passes: tuple[Pass, ...]
    options: Options
    """As merged from flags, files and profile."""
    source: Source | PhotographSource | None
    input: InputSpec | None
    budgets: tuple[Budget, ...]
    max_drop: float | None
    seed: int
    device: str
    trust: bool = False
    """Whether code in the model file may run. Said with the command alone: a file beside a model must not say it."""

    @property
    def folder(self) -> Path:
        """Where the run goes if nothing else is said."""
        return Path("runs") / f"{self.model.stem}-{self.target.name}-{self.profile.name}"


def make_plan(model: Path, flags: Options, *, default_target: str | None = None, trust: bool = False) -> Plan:
    """Resolve every option (flag > compress.toml here > beside the model > profile > default) and check all.

    Raises UsageError for what cannot be as asked, Unavailable where the target's runtime is missing.
    """
    with opened(model):
        pass  # it is a file that can be read; the rest of the plan is checked before its content is
    files = [_options_of(folder / "compress.toml") for folder in (Path(), model.resolve().parent)]
    options = _first(flags, *files)
    named = options.profile
    if named is None:
        named = _preferred(options)
    profile = catalog.find_profile(named)
    own = catalog.make(Options, profile.options, f"profile {named!r}: options")
    # With a profile that brings its own data, what was guessed for want of data no longer holds: it was named.
    options = _first(flags, own) if profile.resolved else _first(options, own)
    if options.target is None:
        options = replace(options, target=default_target)
    if options.target is None:
        raise UsageError("no target is named", hint=f"--target {' | '.join(catalog.toml_names('targets'))}")
    target = at_hand(catalog.find_target(options.target))
    profile = replace(profile, passes=_with_settings(profile.passes, options.set or ()))
    passes = tuple(_make_pass(spec, profile.name, options) for spec in profile.passes)
    budgets = tuple(Budget.parse(text) for text in options.budget or ())
    spec = None if options.input is None else InputSpec.parse(options.input)
    if options.device not in (None, "cpu", "cuda"):
        raise catalog.unknown("device", options.device, ["cpu", "cuda"])
    if options.device == "cuda" and not _has_gpu():
        raise Unavailable("there is no GPU here that PyTorch can use", hint="--device cpu")
    if options.board is not None:
        Board.parse(options.board)
        if catalog.find_target(options.target).arch == "any":
            raise UsageError(f"target {target.name} is this machine, and no board", hint="--target, the board's own")
    source = _source(options)
    if options.max_drop is not None and not math.isfinite(options.max_drop):
        raise UsageError(f"max-drop {options.max_drop} is no limit", hint="give a number of points, such as 1.0")
    if options.seed is not None and options.seed < 0:
        raise UsageError(f"seed {options.seed} is below 0", hint="give 0 or a whole number above")
    if options.max_drop is not None and source is None:
        raise UsageError("--max-drop needs samples to judge on", hint="give --data or --eval")
    plan_context = PlanContext(target, source.task if source else "classification", _has_train(source), source is not None)
    _check(passes, plan_context)
    if target.builds == "here":
        catalog.find("backends", target.backend)().version()
        _check_versions(target)
    return Plan(
        model,
        target,
        replace(profile, passes=tuple(map(_spec, passes))),
        passes,
        options,
        source,
        spec,
        budgets,
        options.max_drop,
        options.seed or 0,
        options.device or "cpu",
        trust,
    )


# -- options ----------------------------------------------------------------------------------


def _first(*layers: Options) -> Options:
    """Field by field, the first layer that says something."""
    said = {
        f.name: next((v for layer in layers if (v := getattr(layer, f.name)) is not None), None)
        for f in dataclasses.fields(Options)
    }
    return Options(**said)


def _options_of(path: Path) -> Options:
    """The options of a compress.toml; its relative paths start at its own folder."""
    if not path.is_file():
        return Options()
    options = catalog.make(Options, catalog.read_toml(path), str(path))

    def beside(value: str | None) -> str | None:
        return str(path.parent / value) if value and (path.parent / value).exists() else value

    def own(value: str | None) -> str | None:
        # A folder that happens to be called `host` is no target: a user's own is a .toml file.
        return beside(value) if value and value.endswith(".toml") else value

    return replace(
        options,
        target=own(options.target),
        profile=own(options.profile),
        data=beside(options.data),
        eval=beside(options.eval),
    )


def _with_settings(specs: Sequence[PassSpec], settings: Sequence[str]) -> tuple[PassSpec, ...]:
    """Apply ``--set pass.field=value``; the value is read as TOML, else taken as text."""
    changed = list(specs)
    for text in settings:
        path, equals, value = text.partition("=")
        kind, dot, field = path.partition(".")
        field, deeper, inner = field.partition(".")
        if not (equals and dot and field):
            raise UsageError(
                f"not a setting: {text!r}", hint="write --set pass.field=value, such as quantize.samples=100"
            )
        at = [i for i, spec in enumerate(changed) if spec.kind == kind]
        if not at:
            raise catalog.unknown("pass of this profile", kind, [s.kind for s in changed])
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        for i in at:
            before = changed[i].settings.get(field)
            inside = {**(before if isinstance(before, Mapping) else {}), inner: parsed}
            changed[i] = PassSpec(kind, {**changed[i].settings, field: inside if deeper else parsed})
    return tuple(changed)


def _make_pass(spec: PassSpec, profile: str, options: Options) -> Pass:
    """A pass that works under a budget takes the run's before the profile's; its own ``--set`` before both.

    One that may have a budget, and has none by itself or by its profile, works without.
    """
    cls, settings = catalog.find("passes", spec.kind), dict(spec.settings)
    own = {text.partition("=")[0] for text in options.set or ()}
    if settings.get("budget", getattr(cls, "budget", ())):
        set_here = f"{spec.kind}.budget" in own
        if options.budget and not set_here:
            settings["budget"] = options.budget
        if (options.budget or set_here) and f"{spec.kind}.yielding" not in own:
            settings.pop("yielding", None)  # the profile's ambition may yield; what is asked for is asked for
    made: Pass = catalog.make(cls, settings, f"pass {spec.kind!r} of profile {profile!r}")
    return made


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _spec(made: Any) -> PassSpec:
    return PassSpec(made.kind, settings_of(made))


def settings_of(made: Any) -> Mapping[str, Json]:
    """A pass's settings, all spelled out."""
    return dataclasses.asdict(made)


# -- checks -----------------------------------------------------------------------------------


def at_hand(target: Target) -> Target:
    """A target that is "this machine" takes on this machine's facts."""
    if target.arch != "any":
        return target
    here = machine()
    vnni = {"avx512_vnni", "avx_vnni"} & set(here.features)
    saturates = ("u8s8-saturates",) if here.arch == "x86_64" and not vnni else ()
    return replace(target, quirks=(*target.quirks, *saturates))


def _check_versions(target: Target) -> None:
    """Raises Unavailable where a runtime package is older or newer than the target takes."""
    for name, wanted in target.runtime.items():
        try:
            accepted = SpecifierSet(wanted, prereleases=True)
            found = importlib.metadata.version(name)
        except InvalidSpecifier as error:
            raise UsageError(
                f"target {target.name}: runtime {name} = {wanted!r} is no version", hint='write such as ">=1.20"'
            ) from error
        except importlib.metadata.PackageNotFoundError as error:
            raise Unavailable(
                f"target {target.name} takes {name} {wanted}, which is not installed",
                hint=f"pip install '{name}{wanted}'",
            ) from error
        if found not in accepted:
            raise Unavailable(
                f"target {target.name} takes {name} {wanted}, here is {found}", hint=f"pip install '{name}{wanted}'"
            )


def _preferred(options: Options) -> str:
    named = [name for name in (options.data, options.eval) if name is not None]
    if not named:
        return "float"
    from compressor.data import read_photographs

    return _PREFERRED["super-resolution" if any(map(read_photographs, named)) else "classification"]


def _source(options: Options) -> Source | PhotographSource | None:
    if options.data is None and options.eval is None:
        return None
    from compressor.data import load_data

    return load_data(options.data, evaluate=options.eval)


def _has_train(source: Source | PhotographSource | None) -> bool:
    return source is not None and source.train is not None and len(source.train) > 0


def _check(passes: Sequence[Pass], plan_context: PlanContext) -> None:
    """Fold needs and gives over the whole list; collect what the passes themselves object to."""
    have = {"teacher"}
    for index, each in enumerate(passes):
        assert each.needs | each.produces <= set(SLOTS)
        if missing := sorted(each.needs - have):
            givers = [k for k in catalog.names("passes") if catalog.find("passes", k).produces & set(missing)]
            raise UsageError(
                f"pass {index + 1} ({each.kind}) needs {', '.join(missing)}, which no pass before it makes",
                hint=f"put one of {', '.join(givers)} before it in the profile",
            )
        have |= each.produces
    problems = [problem for each in passes for problem in each.check(plan_context)]
    if problems:
        what, _, hint = problems[0].partition(": ")
        raise UsageError(what, hint="; ".join([hint or "change this setting", *problems[1:]]))
