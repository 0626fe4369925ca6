"""``compressor.compress``: `compress run` for Python programs."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import pipeline
from compressor.core import InputSpec, Json, Progress, Record, UsageError
from compressor.options import Options
from compressor.pipeline import Compressed, Watcher
from compressor.plan import Plan, make_plan

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

__all__ = ["compress"]

Source = str | Path | Callable[[], Any]
"""A source as the command line names it, or a function at the top level of a module."""


def compress(
    model: str | Path | nn.Module,
    *,
    target: str | Path | None = None,
    profile: str | Path | None = None,
    arch: str | Callable[[], nn.Module] | None = None,
    teacher: str | Path | Sequence[str | Path] | None = None,
    data: Source | None = None,
    evaluate: Source | None = None,
    output: str | Path | None = None,
    input: str | tuple[int, int, int] | InputSpec | Mapping[str, str | tuple[int, ...]] | None = None,
    normalize: str | None = None,
    channels: str | None = None,
    layout: str | None = None,
    task: str | None = None,
    metric: str | Callable[..., float] | None = None,
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
    """Compress a model for a target: measure it, verify it, write its bundle. Prints nothing.

    Each argument is the option of ``compress run`` of that name; one that is left out is looked up in the same places
    (compress.toml, the profile). Without a target it is ``host``, this machine.
    ``model`` is a file (a checkpoint or an ONNX file) or a network: one of a known family as it is, any other with
    ``arch``. ``arch``, ``data``, ``evaluate`` and ``metric`` also take a function at the top level of a module:
    ``arch()`` makes the network; ``data()`` returns arrays (x, y) or (x, y, x_test, y_test), or dicts of arrays, one a
    sample; ``metric(outputs, targets)`` returns a number. ``input`` is (channels, height, width), or maps each input's
    name to the size of one sample. ``budget`` maps costs to a share such as ``"25%"`` or to a number.

    A missed budget is the result's ``missed``, a BudgetMissed: the bundle is there. Raises
    UsageError, Unavailable, VerificationFailed, Inconclusive or UnsafeInput, whose ``code`` is the exit code.
    """
    options = Options(
        target=None if target is None else str(target),
        profile=None if profile is None else str(profile),
        arch=_named(arch, "arch"),
        teacher=_files(teacher),
        data=_named(data, "data"),
        eval=_named(evaluate, "evaluate"),
        input=_inputs(input),
        normalize=normalize,
        channels=channels,
        layout=layout,
        task=task,
        metric=_named(metric, "metric"),
        budget=tuple(_budget(name, limit) for name, limit in budget.items()) if budget else None,
        max_drop=max_drop,
        set=tuple(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in set.items()) if set else None,
        seed=seed,
        device=device,
        board=board,
    )
    return _run(model, options, output, trust, fresh, _watcher(progress))


def _run(
    model: str | Path | nn.Module,
    options: Options,
    output: str | Path | None,
    trust: bool,
    fresh: bool,
    watcher: Watcher,
) -> Compressed:
    """Plan and run, from the model's file or from a file of the network's weights."""
    with _file(model) as path:
        plan = make_plan(path, options, default_target="host", trust=trust)
        folder = plan.folder if output is None else Path(output)
        if not isinstance(model, str | Path):
            _check_rebuilt(model, plan, folder, fresh)
            path = folder / "teacher" / "model.safetensors"
        return pipeline.run(plan, folder, _command(path, plan, options, folder), watcher, fresh=fresh)


# -- arguments as the command line takes them ------------------------------------------------------


def _named(value: Source | None, argument: str) -> str | None:
    """Return the name of a source or a constructor."""
    if value is None or isinstance(value, str | Path):
        return None if value is None else str(value)
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not callable(value) or module is None or not name.isidentifier():
        raise UsageError(
            f"{argument} is {value if callable(value) else type(value).__name__}, which cannot be found by a name",
            hint=f"give {argument} a path, or a function at the top level of a module",
        )
    return f"{module}:{name}"


def _files(given: str | Path | Sequence[str | Path] | None) -> tuple[str, ...] | None:
    if given is None or isinstance(given, str | Path):
        return None if given is None else (str(given),)
    return tuple(map(str, given)) or None


def _inputs(
    given: str | tuple[int, int, int] | InputSpec | Mapping[str, str | tuple[int, ...]] | None,
) -> tuple[str, ...] | None:
    """Return a ``--input`` for each input; None where nothing was given."""

    def text(size: str | tuple[int, ...] | InputSpec) -> str:
        return "x".join(map(str, size)) if isinstance(size, tuple) else str(size)

    if given is None:
        return None
    if isinstance(given, Mapping):
        return tuple(f"{name}={text(size)}" for name, size in given.items())
    return (text(given),)


def _budget(name: str, limit: str | float) -> str:
    if isinstance(limit, str):
        return f"{name}={limit}"
    number = f"{limit:.6f}".rstrip("0").rstrip(".")
    return f"{name}={number}ms" if name == "latency" else f"{name}={number}"


def _command(model: Path, plan: Plan, options: Options, folder: Path) -> list[str]:
    """Return the command line that does the same, for the report."""
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
    """Yield the model's file; of a network a temporary file of its weights, of which the run keeps a copy."""
    if isinstance(model, str | Path):
        yield Path(model)
        return
    from torch import Tensor, nn

    from compressor.frontend import save_weights
    from compressor.modules import state_dict

    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a model is a file or a torch.nn.Module, not {type(model).__name__}",
            hint="save a dict of weights with torch.save(weights, path), and give the path",
        )
    state = state_dict(model)
    if odd := [key for key, value in state.items() if not isinstance(value, Tensor) or nn.parameter.is_lazy(value)]:
        raise UsageError(
            f"{_name(model)} has lazy layers, or state that is not a tensor: {odd[0]}",
            hint="run it once so that its layers have weights, and keep only tensors in its state dict",
        )
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        path = Path(folder) / f"{_name(model).lower()}.safetensors"
        save_weights(state, path)
        yield path


def _check_rebuilt(model: nn.Module, plan: Plan, folder: Path, fresh: bool) -> None:
    """Raise UsageError where the network cannot be rebuilt from its weights, or the rebuilt one computes otherwise."""
    import copy

    import torch
    from torch.utils._pytree import tree_leaves

    from compressor.feeds import random_feeds
    from compressor.modules import tame

    name = _name(model)
    try:
        teacher = pipeline.check(plan, folder, fresh=fresh)
    except UsageError as error:
        raise UsageError(error.what.replace(str(plan.model), name), hint=error.hint) from error
    network = teacher.network
    feeds = random_feeds(network.signature, network.sizes, network.signature.samples or 2, 0)
    rebuilt = network(feeds)
    with torch.inference_mode():
        own = tame(copy.deepcopy(model), name)
        own.to("cpu", torch.float32)
        own.eval()
        given = [tensor.numpy() for tensor in tree_leaves(own(*map(torch.from_numpy, feeds.values())))]
    if len(given) != len(rebuilt) or not all(map(_alike, given, rebuilt.values())):
        raise UsageError(
            f"{name} has the weights of {network.family}, and computes something else",
            hint="give arch=, a class or function without arguments that makes this very network",
        )


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and bool(abs(one - other).max() <= 1e-3 * abs(other).max())


def _name(model: nn.Module) -> str:
    return type(model).__name__.strip("_")
