"""The rules of the house, checked in the source of compressor/: `make check` runs this file, and prints each violation.

The layers of the rooms are import-linter's (pyproject.toml). Here are the rules that it has no word for.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = "compressor"
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
LONG_FILES = {"bundle/runner.py"}
"""One file by design: it is copied into every bundle."""
TASKS = {"classification", "super-resolution", "super_resolution", "segmentation", "detection", "generic"}
TASK_ROOMS = {"tasks", "data", "models", "profiles"}
"""Where a task may be named by a string."""


@dataclass(frozen=True)
class Module:
    """A source file."""

    path: str
    """Relative to the package."""
    name: str
    """Dotted, such as ``compressor.quant.ranges``."""
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.removeprefix(f"{ROOT}.").partition(".")[0]


@dataclass(frozen=True)
class Import:
    """An import of one name from the package."""

    module: str
    """The module that is imported, or imported from."""
    name: str | None
    """What is imported from it; None of the module itself."""
    bound: str
    """What it is called here."""
    line: int
    typing_only: bool


def read_package(folder: Path) -> dict[str, Module]:
    """Every module of the package in ``folder`` by its dotted name."""
    modules = {}
    for file in sorted(folder.rglob("*.py")):
        path = file.relative_to(folder)
        parts = [ROOT, *path.with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = file.read_text(encoding="utf-8")
        modules[name] = Module(path.as_posix(), name, text, ast.parse(text, str(file)))
    return modules


# -- rules ------------------------------------------------------------------------------------


def long_files(modules: Mapping[str, Module]) -> Iterator[str]:
    """Files of more than 400 lines."""
    for module in modules.values():
        if (lines := len(module.text.splitlines())) > LONGEST_FILE and module.path not in LONG_FILES:
            yield f"{module.path}: {lines} lines, over {LONGEST_FILE}"


def long_functions(modules: Mapping[str, Module]) -> Iterator[str]:
    """Functions of more than 60 lines, from ``def`` to the last."""
    for module in modules.values():
        if module.path in LONG_FILES:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    yield f"{module.path}:{node.lineno}: {node.name}() has {lines} lines, over {LONGEST_FUNCTION}"


def circles(modules: Mapping[str, Module]) -> Iterator[str]:
    """Modules, and rooms, that import each other; imports in functions count, those of type checkers do not."""
    files: dict[str, set[str]] = {name: set() for name in modules}
    rooms: dict[str, set[str]] = {module.room: set() for module in modules.values()}
    for module in modules.values():
        for each in imports(module, modules):
            if not each.typing_only and each.module != module.name:
                files[module.name].add(each.module)
                rooms[module.room].add(modules[each.module].room)
    for what, graph in (("modules", files), ("rooms", {a: b - {a} for a, b in rooms.items()})):
        for circle in components(graph):
            yield f"{what} import each other: {', '.join(circle)}"


def private_imports(modules: Mapping[str, Module]) -> Iterator[str]:
    """Modules and names with a leading underscore that another room uses."""
    for module in modules.values():
        bound: dict[str, str] = {}
        for each in imports(module, modules):
            if modules[each.module].room == module.room:
                continue
            dotted = each.module if each.name is None else f"{each.module}.{each.name}"
            if any(is_private(part) for part in dotted.split(".")):
                yield f"{module.path}:{each.line}: {dotted} is private to its room"
            elif each.name is None:
                bound[each.bound] = each.module
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in bound:
                dotted = f"{bound[ast.unparse(node.value)]}.{node.attr}"
                yield f"{module.path}:{node.lineno}: {dotted} is private to its room"


def task_names(modules: Mapping[str, Module]) -> Iterator[str]:
    """String literals that are a task's name, outside the rooms that know the tasks."""
    for module in modules.values():
        if module.room in TASK_ROOMS:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in TASKS:
                yield f"{module.path}:{node.lineno}: the task {node.value!r} is named"


RULES: Sequence[Callable[[Mapping[str, Module]], Iterator[str]]] = (
    long_files,
    long_functions,
    circles,
    private_imports,
    task_names,
)


# -- what they need ---------------------------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def imports(module: Module, modules: Mapping[str, Module]) -> Iterator[Import]:
    """Every import of the package's own modules, wherever it stands in ``module``."""
    yield from _imports(module.tree.body, modules, typing_only=False)


def _imports(body: Iterable[ast.AST], modules: Mapping[str, Module], *, typing_only: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules:
                    yield Import(alias.name, None, alias.asname or alias.name, node.lineno, typing_only)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                bound = alias.asname or alias.name
                if (inner := f"{node.module}.{alias.name}") in modules:
                    yield Import(inner, None, bound, node.lineno, typing_only)
                else:
                    yield Import(node.module, alias.name, bound, node.lineno, typing_only)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.body, modules, typing_only=True)
            yield from _imports(node.orelse, modules, typing_only=typing_only)
        else:
            yield from _imports(ast.iter_child_nodes(node), modules, typing_only=typing_only)


def components(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, each sorted."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for following in graph[stack.pop()]:
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
        return seen

    reach = {node: reached(node) for node in graph}
    found = {tuple(sorted(other for other in reach[node] if node in reach[other])) for node in graph}
    return [list(circle) for circle in sorted(found) if len(circle) > 1]


def main() -> int:
    modules = read_package(Path(__file__).resolve().parents[1] / ROOT)
    violations = [f"{rule.__name__.replace('_', ' ')}: {violation}" for rule in RULES for violation in rule(modules)]
    for violation in violations:
        print(violation)
    print(f"{len(modules)} modules, {len(violations)} violations of the house's rules")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
