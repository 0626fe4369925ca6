"""What answers at once imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from places import ROOT

HEAVY = set(
    "torch onnx onnxruntime onnx_ir onnxscript nncf numpy scipy sklearn safetensors PIL".split()  # noqa: SIM905
)


def loaded_by(code: str) -> set[str]:
    """The top-level modules that are loaded once ``code`` has run, in a Python of its own."""
    told = f"{code}\nimport sys, json\nprint('\\n' + json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(*arguments: str) -> str:
    return (
        f"import sys; sys.argv = {['compress', *arguments]!r}\n"
        "from compressor.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["targets"],
        ["targets", "--json"],
        ["targets", "host"],
        ["targets", "x86-vnni", "--json"],
        ["profiles"],
        ["profiles", "ptq"],
    ],
    ids=" ".join,
)
def test_what_answers_at_once_is_light(arguments: list[str]) -> None:
    assert not loaded_by(command(*arguments)) & HEAVY


@pytest.mark.parametrize(
    "module",
    ["compressor", *(f"compressor.{name}" for name in ("cli", "catalog", "pipeline", "plan", "budgets", "store"))],
)
def test_a_module_is_light_to_import(module: str) -> None:
    loaded = loaded_by(f"import {module}") & HEAVY
    assert not loaded, loaded


def test_core_is_standard_library_only() -> None:
    # What site-packages' .pth files drag in at start-up is no doing of ours.
    assert loaded_by("import compressor.core") - loaded_by("") - sys.stdlib_module_names == {"compressor"}


def test_every_pass_is_light_to_import() -> None:
    code = "from compressor import catalog\nfor name in catalog.names('passes'): catalog.find('passes', name)"
    assert not loaded_by(code) & HEAVY
