"""The options of a run, from the command line, compress.toml and the profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from compressor import catalog
from compressor.core import Json

__all__ = ["Options", "make_options", "merge_options", "read_options"]


@dataclass(frozen=True, slots=True)
class Options:
    """Every option of a run that flags, a compress.toml and a profile may give; None: not given."""

    target: str | None = None
    profile: str | None = None
    arch: str | None = None
    teacher: tuple[str, ...] | None = None
    data: str | None = None
    eval: str | None = None
    input: tuple[str, ...] | None = None
    normalize: str | None = None
    channels: str | None = None
    layout: str | None = None
    task: str | None = None
    metric: str | None = None
    budget: tuple[str, ...] | None = None
    max_drop: float | None = None
    set: tuple[str, ...] | None = None
    seed: int | None = None
    device: str | None = None
    board: str | None = None


def make_options(table: Mapping[str, Json], where: str) -> Options:
    """Make options from a table of TOML values; ``input`` and ``teacher`` may be a single text.

    Raises UsageError naming ``where`` for a key or a value that is none of an option.
    """
    table = {k: [v] if k in ("input", "teacher") and isinstance(v, str) else v for k, v in table.items()}
    return catalog.make(Options, table, where)


def merge_options(*layers: Options) -> Options:
    """Take each option from the first layer that gives it."""
    merged = {
        field.name: next((value for layer in layers if (value := getattr(layer, field.name)) is not None), None)
        for field in dataclasses.fields(Options)
    }
    return Options(**merged)


def read_options(path: Path) -> Options:
    """Read a compress.toml; its relative paths start at its own folder. Without the file no option is given.

    Raises UsageError for broken TOML, and for a key or a value that is none of an option.
    """
    if not path.is_file():
        return Options()
    options = make_options(catalog.read_toml(path), str(path))

    def beside(value: str | None) -> str | None:
        return str(path.parent / value) if value and (path.parent / value).exists() else value

    def own_toml(value: str | None) -> str | None:
        # A folder that happens to be called `host` is no target: a user's own is a .toml file.
        return beside(value) if value and value.endswith(".toml") else value

    return replace(
        options,
        target=own_toml(options.target),
        profile=own_toml(options.profile),
        teacher=None if options.teacher is None else tuple(str(beside(each)) for each in options.teacher),
        data=beside(options.data),
        eval=beside(options.eval),
    )
