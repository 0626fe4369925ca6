"""From the options of a run to a plan that is known to be able to finish."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from compressor import catalog
from compressor.bench.ssh import Board
from compressor.budgets import Budget
from compressor.core import SLOTS, GivenInput, Pass, PassSpec, PlanContext, Profile, Target, Unavailable, UsageError
from compressor.frontend import open_model_file
from compressor.losses import objective
from compressor.machine import machine
from compressor.options import Options, make_options, merge_options, read_options
from compressor.settings import apply_settings, make_pass, settings_of

if TYPE_CHECKING:
    from compressor.data import AnySource

__all__ = ["Plan", "make_plan", "with_machine_quirks"]

_WITHOUT_DATA = "float"
"""The profile of a run that names none and has no data."""
_GRAPH = "ptq"
"""The profile of a run that names none and has data and an ONNX teacher, which has no torch code to train."""


@dataclass(frozen=True)
class Plan:
    """A run, resolved and checked: all that `compressor.pipeline` needs."""

    model: Path
    target: Target
    profile: Profile
    passes: tuple[Pass, ...]
    options: Options
    """As merged from flags, files and profile."""
    source: AnySource | None
    input: tuple[GivenInput, ...]
    budgets: tuple[Budget, ...]
    max_drop: float | None
    seed: int
    device: str
    teachers: tuple[Path, ...] = ()
    """Further teachers, which students learn from beside the model."""
    trust: bool = False
    """Whether code in the model file may run. A flag alone gives it: a file beside the model must not."""

    @property
    def folder(self) -> Path:
        """The run's folder where none is given."""
        return Path("runs") / f"{self.model.stem}-{self.target.name}-{self.profile.name}"


def make_plan(
    model: Path,
    flags: Options,
    *,
    default_target: str | None = None,
    trust: bool = False,
    source: AnySource | None = None,
) -> Plan:
    """Resolve every option (flag > compress.toml here > beside the model > profile > default), and check the plan.

    ``source`` are the data where they were read already.
    Raises UsageError for options that cannot be used, Unavailable where the target's runtime is missing.
    """
    with open_model_file(model):
        pass  # it can be read; its content is checked after the plan
    options, profile, found = _merged(model, flags, default_target)
    target = with_machine_quirks(_target(options))
    profile = replace(profile, passes=apply_settings(profile.passes, options.set or ()))
    passes = tuple(make_pass(spec, profile.name, options) for spec in profile.passes)
    budgets = tuple(Budget.parse(text) for text in options.budget or ())
    inputs = GivenInput.parse_all(options.input or ())
    _check_options(options)
    source = source or found or _source(options)
    teachers = _further_teachers(options, passes, source)
    if options.metric is not None and source is None:
        raise UsageError("--metric needs samples to evaluate on", hint="give --data or --eval")
    if options.max_drop is not None and source is None:
        raise UsageError("--max-drop needs samples to evaluate on", hint="give --data or --eval")
    targets = source.targets if source and source.images else None  # students are trained on images alone
    _check_passes(passes, PlanContext(target, targets, _has_train(source), has_evaluate=source is not None))
    if target.builds == "here":
        catalog.find("backends", target.backend)().version()
        _check_versions(target)
    return Plan(
        model=model,
        target=target,
        profile=replace(profile, passes=tuple(PassSpec(each.kind, settings_of(each)) for each in passes)),
        passes=passes,
        options=options,
        source=source,
        input=inputs,
        budgets=budgets,
        max_drop=options.max_drop,
        seed=options.seed or 0,
        device=options.device or "cpu",
        teachers=teachers,
        trust=trust,
    )


def with_machine_quirks(target: Target) -> Target:
    """Add this machine's quirks to a target that is "this machine" (``arch = "any"``); return others unchanged."""
    if target.arch != "any":
        return target
    here = machine()
    vnni = {"avx512_vnni", "avx_vnni"} & set(here.features)
    saturates = ("u8s8-saturates",) if here.arch == "x86_64" and not vnni else ()
    return replace(target, quirks=(*target.quirks, *saturates))


# -- options ----------------------------------------------------------------------------------


def _merged(model: Path, flags: Options, default_target: str | None) -> tuple[Options, Profile, AnySource | None]:
    """Merge flags, the compress.toml files, the profile's options and the default target.

    The data come with it where they had to be read to choose the profile.
    """
    files = [read_options(folder / "compress.toml") for folder in (Path(), model.resolve().parent)]
    options, source = merge_options(flags, *files), None
    name = options.profile
    if name is None:
        _check_options(options)
        source = _source(options)
        name = _default_profile(model, options, source)
    profile = catalog.find_profile(name)
    profile_options = make_options(profile.options, f"profile {name!r}: options")
    # A resolved.toml is a whole plan: what a compress.toml says was merged into it when it ran.
    options = merge_options(flags if profile.resolved else options, profile_options, Options(target=default_target))
    return options, profile, source


def _default_profile(model: Path, options: Options, source: AnySource | None) -> str:
    """Return the profile of the data's task; for an ONNX teacher ``ptq``; without data ``float``."""
    if source is None:
        return _WITHOUT_DATA
    is_graph = model.suffix.lower() == ".onnx"
    if options.task is not None:
        of_task: str = catalog.find("tasks", options.task).profile
        return _GRAPH if is_graph else of_task
    if is_graph:
        return _GRAPH
    from compressor.tasks import profile_for

    return profile_for(source)


def _target(options: Options) -> Target:
    if options.target is None:
        raise UsageError("no target is named", hint=f"--target {' | '.join(catalog.toml_names('targets'))}")
    return catalog.find_target(options.target)


def _further_teachers(options: Options, passes: Sequence[Pass], source: AnySource | None) -> tuple[Path, ...]:
    """Return the files of ``--teacher``. Raises UsageError where no student would learn from them."""
    teachers = tuple(map(Path, options.teacher or ()))
    for path in teachers:
        with open_model_file(path):
            pass
    if teachers and not any(each.collective for each in passes):
        raise UsageError(
            "--teacher is for profiles that train a student, and no pass of this one does",
            hint="leave it out, or take such a profile: --profile balanced",
        )
    if teachers and any("features" in objective(losses).needs for losses in _losses(passes)):
        raise UsageError(
            "a loss reads the teacher's feature maps, and several teachers only answer",
            hint="leave out --teacher, or take losses on outputs: kl and cross-entropy",
        )
    if teachers and (source is None or source.targets != "labels"):
        raise UsageError("several teachers are for labelled images", hint="give such --data, or leave out --teacher")
    return teachers


def _losses(passes: Sequence[Pass]) -> list[Any]:
    return [losses for each in passes if (losses := getattr(each, "losses", None))]


def _source(options: Options) -> AnySource | None:
    if options.data is None and options.eval is None:
        return None
    from compressor.data import load_data

    return load_data(options.data, evaluate=options.eval)


def _has_train(source: AnySource | None) -> bool:
    return source is not None and source.train is not None and len(source.train) > 0


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


# -- checks -----------------------------------------------------------------------------------


def _check_options(options: Options) -> None:
    """Raise UsageError for a value that no run can have, Unavailable where ``--device cuda`` finds no GPU."""
    for name, known in (("device", ["cpu", "cuda"]), ("channels", ["rgb", "bgr"]), ("layout", ["nchw", "nhwc"])):
        if (value := getattr(options, name)) is not None and value not in known:
            raise catalog.unknown(name, value, known)
    if options.task is not None:
        catalog.find("tasks", options.task)
    if options.device == "cuda" and not _has_gpu():
        raise Unavailable("there is no GPU here that PyTorch can use", hint="--device cpu")
    if options.board is not None:
        Board.parse(options.board)
        if (target := _target(options)).arch == "any":
            raise UsageError(f"target {target.name} is this machine, not a board", hint="--target, the board's own")
    if options.max_drop is not None and not math.isfinite(options.max_drop):
        raise UsageError(f"max-drop {options.max_drop} is no limit", hint="give a number of points, such as 1.0")
    if options.seed is not None and options.seed < 0:
        raise UsageError(f"seed {options.seed} is below 0", hint="give 0 or a whole number above")


def _check_versions(target: Target) -> None:
    """Raise Unavailable where a runtime package is older or newer than the target requires, or missing."""
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
                f"target {target.name} requires {name} {wanted}, which is not installed",
                hint=f"pip install '{name}{wanted}'",
            ) from error
        if found not in accepted:
            raise Unavailable(
                f"target {target.name} requires {name} {wanted}, installed is {found}",
                hint=f"pip install '{name}{wanted}'",
            )


def _check_passes(passes: Sequence[Pass], context: PlanContext) -> None:
    """Raise UsageError where a pass needs a slot that no pass before it fills, or objects to the plan itself."""
    filled = {"teacher"}
    for number, each in enumerate(passes, start=1):
        assert each.needs | each.produces <= set(SLOTS)
        if missing := sorted(each.needs - filled):
            makers = [kind for kind in catalog.names("passes") if catalog.find("passes", kind).produces & set(missing)]
            raise UsageError(
                f"pass {number} ({each.kind}) needs {', '.join(missing)}, which no pass before it makes",
                hint=f"put one of {', '.join(makers)} before it in the profile",
            )
        filled |= each.produces
    problems = [problem for each in passes for problem in each.check(context)]
    if problems:
        what, _, hint = problems[0].partition(": ")
        raise UsageError(what, hint="; ".join([hint or "change this setting", *problems[1:]]))
