"""``compressor.compress``: what `compress run` does, for a program."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import pipeline
from compressor.core import InputSpec, Json, Progress, Record, UsageError
from compressor.pipeline import Compressed, Watcher
from compressor.plan import Options, Plan, make_plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["compress"]

Source = str | Path | Callable[[], Any]
"""A source as the command line names it, or a function of an importable module."""


def compress(
    model: str | Path | nn.Module,
    *,
    target: str | Path | None = None,
    profile: str | Path | None = None,
    arch: str | Callable[[], nn.Module] | None = None,
    data: Source | None = None,
    evaluate: Source | None = None,
    output: str | Path | None = None,
    input: str | tuple[int, int, int] | InputSpec | None = None,
    normalize: str | None = None,
    budget: Mapping[str, str | float] | None = None,
    max_drop: float | None = None,
    set: Mapping[str, Json] | None = None,
    seed: int | None = None,
    device: str | None = None,
    board: str | None = None,
    trust: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """Compress a model for a target: measured, verified, bundled. Prints nothing.

    Every argument is the option of ``compress run`` of that name, and what is left out is found in the
    same places (compress.toml, the profile); the target is else ``host``, this machine.

    ``model`` is a checkpoint, or a network: one of a known family as it is, any other with ``arch``.
    ``arch``, ``data`` and ``evaluate`` also take a function at the top level of a module, which is
    called by its name: ``arch()`` makes the network, ``data()`` gives arrays (x, y) or (x, y, x_test,
    y_test). ``input`` is (channels, height, width). ``budget`` maps ``latency``, ``params``, ``macs`` and
    ``bytes`` to ``"25%"`` and the like, or to a number of ms, of bytes, of what is counted. ``set`` maps
    ``"pass.field"`` to its value. ``progress`` is called as ``progress(message, done, total)``.

    A missed budget is no exception, for the bundle is there: the result's ``missed`` is then the
    BudgetMissed that says so. Where no bundle could be made a CompressError is raised: UsageError,
    Unavailable, VerificationFailed, Inconclusive or UnsafeInput; its ``code`` is what ``compress`` would exit with.
    """
    options = Options(
        target=None if target is None else str(target),
        profile=None if profile is None else str(profile),
        arch=_named(arch, "arch"),
        data=_named(data, "data"),
        eval=_named(evaluate, "evaluate"),
        input="x".join(map(str, input)) if isinstance(input, tuple) else None if input is None else str(input),
        normalize=normalize,
        budget=tuple(_budget(name, limit) for name, limit in budget.items()) if budget else None,
        max_drop=max_drop,
        set=tuple(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in set.items()) if set else None,
        seed=seed,
        device=device,
        board=board,
    )
    with _file(model) as path:
        plan = make_plan(path, options, default_target="host", trust=trust)
        folder = plan.folder if output is None else Path(output)
        if not isinstance(model, str | Path):
            _check_rebuilt(model, plan, folder, fresh)
            path = folder / "teacher" / "model.safetensors"
        return pipeline.run(plan, folder, _command(path, plan, options, folder), _watcher(progress), fresh=fresh)


# -- arguments as the command line has them ------------------------------------------------------


def _named(value: Source | None, argument: str) -> str | None:
    """A source or a constructor by its name."""
    if value is None or isinstance(value, str | Path):
        return None if value is None else str(value)
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not callable(value) or module is None or not name.isidentifier():
        raise UsageError(
            f"{argument} is {value if callable(value) else type(value).__name__}, which has no name to be found by",
            hint=f"give {argument} a path, or a function at the top level of a module",
        )
    return f"{module}:{name}"


def _budget(name: str, limit: str | float) -> str:
    if isinstance(limit, str):
        return f"{name}={limit}"
    number = f"{limit:.6f}".rstrip("0").rstrip(".")
    return f"{name}={number}ms" if name == "latency" else f"{name}={number}"


def _command(model: Path, plan: Plan, options: Options, folder: Path) -> list[str]:
    """What does the same on the command line: the report keeps it."""
    words = ["compress", "run", str(model)]
    for field in dataclasses.fields(options):
        value = getattr(replace(options, target=plan.options.target), field.name)
        for each in value if isinstance(value, tuple) else () if value is None else (value,):
            words += [f"--{field.name.replace('_', '-')}", str(each)]
    return [*words, *(["--trust"] if plan.trust else []), "--output", str(folder)]


def _watcher(progress: Progress | None) -> Watcher:
    tell: Progress = progress or (lambda message, done, total: None)
    where = ""

    def started(kind: str, number: int, total: int) -> None:
        nonlocal where
        where = f"[{number}/{total}] {kind}"
        tell(where, 0, 1)

    def report_progress(message: str, done: int, total: int) -> None:
        tell(f"{where}: {message}" if where else message, done, total)

    def finished(record: Record) -> None:
        tell(where, 1, 1)

    return Watcher(report_progress, started, finished)


# -- a network instead of a file --------------------------------------------------------------------


@contextmanager
def _file(model: str | Path | nn.Module) -> Iterator[Path]:
    """The model's file; of a network its weights, for as long as the run lasts (which keeps its own copy)."""
    if isinstance(model, str | Path):
        yield Path(model)
        return
    from torch import Tensor, nn

    from compressor.frontend import save_weights

    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a model is a file or a torch.nn.Module, not {type(model).__name__}",
            hint="save a dict of weights with torch.save(weights, path), and give the path",
        )
    state = model.state_dict()
    if odd := [key for key, value in state.items() if not isinstance(value, Tensor) or nn.parameter.is_lazy(value)]:
        raise UsageError(
            f"{_name(model)} has lazy layers, or state that is no tensor: {odd[0]}",
            hint="run it once, and keep what is no tensor out of its state dict",
        )
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        path = Path(folder) / f"{_name(model).lower()}.safetensors"
        save_weights(state, path)
        yield path


def _check_rebuilt(model: nn.Module, plan: Plan, folder: Path, fresh: bool) -> None:
    """Raises UsageError where the network cannot be built again from its weights, or would be another one."""
    import copy

    import torch

    name = _name(model)
    try:
        teacher = pipeline.check(plan, folder, fresh=fresh)
    except UsageError as error:
        raise UsageError(error.what.replace(str(plan.model), name), hint=error.hint) from error
    noise = torch.randn(2, *teacher.input.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        rebuilt = teacher.loaded.build()(noise)
        given = copy.deepcopy(model).to("cpu", torch.float32).eval()(noise)
    if given.shape != rebuilt.shape or float((given - rebuilt).abs().max()) > 1e-3 * float(rebuilt.abs().max()):
        raise UsageError(
            f"{name} has the weights of {teacher.loaded.family}, and computes something else",
            hint="give arch=, a class or function without arguments that makes this very network",
        )


def _name(model: nn.Module) -> str:
    return type(model).__name__.strip("_")
