"""Registries that are folders: every file is an entry, under the file's name.

A *module catalogue* is a package whose modules each define one public class, the
only name in ``__all__``; its sub-packages hold what the entries share. A *TOML
catalogue* is a folder of TOML files; a user's own file is named by its path. Nothing
registers itself on import, and nothing is imported before it is asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import pkgutil
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from compressor.core import Json, PassSpec, Profile, Target, UsageError

T = TypeVar("T")


def unknown(what: str, name: str, known: Sequence[str]) -> UsageError:
    """Make the error for a name that is not in a list; its hint has the nearest match and the list."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {what}: {name!r}", hint=f"{hint}known: {', '.join(known) or 'none'}")


# -- module catalogues ------------------------------------------------------------------------


def names(folder: str) -> list[str]:
    """Return the entries of ``compressor/<folder>``, in kebab-case, without importing them."""
    package = importlib.import_module(f"compressor.{folder}")
    found = (m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_") and not m.ispkg)
    return sorted(name.replace("_", "-") for name in found)


def find(folder: str, name: str) -> Any:
    """Import an entry and return its one public name. Raises UsageError for an unknown one, with the nearest match."""
    known = names(folder)
    if name not in known:
        raise unknown(folder.removesuffix("es" if folder.endswith("sses") else "s"), name, known)
    module = importlib.import_module(f"compressor.{folder}.{name.replace('-', '_')}")
    (public,) = module.__all__
    return getattr(module, public)


def name_of(entry: object) -> str:
    """Return the name under which `find` has a class, or the class of an object: that of its file."""
    cls = entry if isinstance(entry, type) else type(entry)
    return cls.__module__.rpartition(".")[2].replace("_", "-")


# -- TOML catalogues --------------------------------------------------------------------------


def toml_names(folder: str) -> list[str]:
    """Return the entries of ``targets`` or ``profiles``."""
    return sorted(p.name.removesuffix(".toml") for p in _toml_folder(folder).iterdir() if p.name.endswith(".toml"))


def find_target(name: str) -> Target:
    """Read a target by its name, or a user's own by its path. Raises UsageError."""
    stem, table = _read(name, "target")
    return make(Target, {"title": stem, **table, "name": stem}, f"target {name!r}")


def find_profile(name: str) -> Profile:
    """Read a profile by its name, or a user's own (such as a ``resolved.toml``) by its path. Raises UsageError."""
    stem, table = _read(name, "profile")
    passes = table.pop("pass", None)
    if not isinstance(passes, list) or not all(isinstance(p, dict) and "kind" in p for p in passes):
        raise UsageError(
            f"profile {name!r} has no passes", hint='give it one [[pass]] table with a "kind" for each pass'
        )
    specs = tuple(PassSpec(kind=str(p["kind"]), settings={k: v for k, v in p.items() if k != "kind"}) for p in passes)
    known = {"name", "title", "options", "resolved"}
    for key in table:
        if key not in known:
            raise unknown(f"key in profile {name!r}", key, sorted(known | {"pass"}))
    options = table.get("options", {})
    if not isinstance(options, dict):
        raise UsageError(f"profile {name!r}: options is not a table", hint="write [options] with one key a line")
    name, title = str(table.get("name", stem)), str(table.get("title", stem))
    return Profile(name, title, specs, options, resolved=table.get("resolved") is True)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises UsageError naming the file and, where it is no valid TOML, the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint="name a readable TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", hint="correct that line") from error


def _toml_folder(folder: str) -> Any:
    """Return the folder of a TOML catalogue: inside the package in a wheel, beside it in a checkout."""
    inside = resources.files("compressor") / folder
    return inside if inside.is_dir() else Path(__file__).parent.parent / folder


def _read(name: str, what: str) -> tuple[str, dict[str, Any]]:
    if name.endswith(".toml") or "/" in name:
        return Path(name).stem, read_toml(Path(name))
    known = toml_names(f"{what}s")
    if name not in known:
        raise unknown(what, name, known)
    return name, tomllib.loads((_toml_folder(f"{what}s") / f"{name}.toml").read_text(encoding="utf-8"))


# -- making frozen dataclasses from plain tables ------------------------------------------------


def make(cls: type[T], table: Mapping[str, Json], where: str) -> T:
    """Build a dataclass from a table of TOML or JSON values, checked field by field.

    Raises UsageError naming ``where``, the field and what it takes.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise unknown(f"setting of {where}", key, sorted(fields))
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise UsageError(f"{where} lacks {name!r}", hint=f"add {name} = …")
    hints = typing.get_type_hints(cls)
    return cls(**{key: coerce(hints[key], value, f"{where}: {key}") for key, value in table.items()})


def coerce(annotation: Any, value: Json, where: str) -> Any:
    """Convert ``value`` to the type of an annotation: tables to dataclasses, lists to tuples, whole numbers to floats.

    Raises UsageError naming ``where`` for anything else.
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return coerce(option, value, where)
            except UsageError:
                continue
    elif origin is typing.Literal:
        if value in args:
            return value
        raise unknown(f"value in {where}", str(value), [str(a) for a in args])
    elif origin is tuple and isinstance(value, list | tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(coerce(args[0], item, where) for item in value)
        if len(args) == len(value):
            return tuple(coerce(a, item, where) for a, item in zip(args, value, strict=True))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {key: coerce(args[1], item, f"{where}.{key}") for key, item in value.items()}
    elif annotation is type(None):
        if value is None:
            return None
    elif dataclasses.is_dataclass(annotation) and isinstance(annotation, type) and isinstance(value, Mapping):
        return make(annotation, value, where)
    elif annotation is Path and isinstance(value, str):
        return Path(value)
    elif annotation is Any:
        return value
    elif annotation is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif (
        isinstance(annotation, type)
        and isinstance(value, annotation)
        and (annotation is bool or not isinstance(value, bool))
    ):
        return value
    wanted = getattr(annotation, "__name__", str(annotation)).replace("typing.", "") if not args else str(annotation)
    raise UsageError(f"{where} = {value!r} is not of the right kind", hint=f"it takes {wanted}")
