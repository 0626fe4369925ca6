"""The rules of the house hold, and their check finds what breaks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import house
import pytest
from places import ROOT


def package(folder: Path, files: Mapping[str, str]) -> dict[str, house.Module]:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        for parent in [*Path(path).parents]:
            (folder / parent / "__init__.py").touch()
    return house.read_package(folder)


@pytest.mark.slow
@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_the_rules_hold(rule: Callable[[Any], Iterator[str]]) -> None:
    violations = list(rule(house.read_package(ROOT / house.ROOT)))
    assert not violations, "\n" + "\n".join(violations)


def test_length_counts(tmp_path: Path) -> None:
    function = "def f():\n" + "    x = 1\n" * 60
    files = {"quant/a.py": "\n" * 401, "quant/b.py": "\n" * 400, "quant/c.py": function, "bundle/runner.py": "\n" * 999}
    modules = package(tmp_path, files)
    assert list(house.long_files(modules)) == ["quant/a.py: 401 lines, over 400"]
    assert list(house.long_functions(modules)) == ["quant/c.py:1: f() has 61 lines, over 60"]


def test_circles_of_modules_and_rooms(tmp_path: Path) -> None:
    files = {
        "quant/a.py": "from compressor.quant.b import f",
        "quant/b.py": "def f():\n    from compressor.quant import a",
        "bench/c.py": "from compressor.plan import x",
        "bench/d.py": "",
        "plan.py": "if True:\n    import compressor.bench.d",
        "store.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from compressor.catalog import x",
        "catalog.py": "from compressor.store import x",
    }
    assert list(house.circles(package(tmp_path, files))) == [
        "modules import each other: compressor.quant.a, compressor.quant.b",
        "rooms import each other: bench, plan",
    ]


def test_what_is_private_to_a_room(tmp_path: Path) -> None:
    files = {
        "quant/_secret.py": "x = _y = 1",
        "quant/open.py": "from compressor.quant._secret import _y",
        "bench/a.py": "from compressor.quant._secret import x\nfrom compressor.quant.open import _y",
        "bench/b.py": "from compressor.quant import open as o\nimport compressor.quant.open\no._y, o.__name__",
        "bench/c.py": "import compressor.quant.open\ncompressor.quant.open._y",
        "bench/d.py": "from compressor import __version__",
    }
    assert list(house.private_imports(package(tmp_path, files))) == [
        "bench/a.py:1: compressor.quant._secret.x is private to its room",
        "bench/a.py:2: compressor.quant.open._y is private to its room",
        "bench/b.py:3: compressor.quant.open._y is private to its room",
        "bench/c.py:2: compressor.quant.open._y is private to its room",
    ]


def test_tasks_are_named_where_they_live(tmp_path: Path) -> None:
    text = '"""About detection."""\nif task == "detection":\n    pass\n'
    modules = package(tmp_path, {"passes/a.py": text, "tasks/a.py": text, "data/a.py": text})
    assert list(house.task_names(modules)) == ["passes/a.py:2: the task 'detection' is named"]
