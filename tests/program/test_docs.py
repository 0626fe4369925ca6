"""Every block of README.md and docs/*.md, executed in the order of its page, in a copy of the project.

- ``sh``: run. ``model.pt``, ``model.onnx``, ``images/`` and ``photo.png`` are a small teacher and its images.
- ``python``, ``toml``: written to the file that the paragraph before names in backticks; a program where it names none.
- ``text``: what the block before it (under the same heading) prints, or, where a paragraph beside it says so, an
  example.

There are no other blocks.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT, TEACHER
from runs import made_once

from compressor.core import Target

README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
COPIED = (
    "compressor",
    "targets",
    "profiles",
    "examples",
    "tests",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block, and the paragraphs beside it."""

    language: str
    text: str
    before: str
    after: str
    opens: bool
    """Whether it is the first under its heading."""
    line: int

    @property
    def file(self) -> str | None:
        """The file that it is, of those that the paragraph before it names the last."""
        named = re.findall(r"`([\w./-]+\.(?:py|toml))`", self.before)
        return named[-1] if named else None

    @property
    def is_example(self) -> bool:
        return re.search(r"\bexample\b", f"{self.before} {self.after}") is not None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)^```$", text, re.MULTILINE):
        before = text[: match.start()].rstrip().rpartition("\n\n")[2]
        after = text[match.end() :].lstrip().partition("\n\n")[0]
        opens = re.search("^#", text[end : match.start()], re.MULTILINE) is not None
        found.append(Block(match[1], match[2], before, after, opens, text.count("\n", 0, match.start()) + 1))
        end = match.end()
    return found


# -- a project to run them in ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def belongings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: a three-channel teacher (the digits', its stem spread over the channels), and images.

    The pages' usual run, ``--profile ptq``, is made once: on each page the same command is answered from its cache.
    """
    return made_once(tmp_path_factory, "belongings", _make_belongings)


def _make_belongings(here: Path) -> None:
    from sklearn.datasets import load_digits

    state = torch.load(TEACHER, weights_only=True)
    state["conv1.weight"] = state["conv1.weight"].repeat(1, 3, 1, 1) / 3
    torch.save(state, here / "model.pt")
    digits = load_digits()
    for row in range(600):
        pixels = np.rint(digits.images[row] * 255 / 16).astype(np.uint8)
        image = Image.fromarray(pixels).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        folder = here / "images" / str(digits.target[row])
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{row:04}.png")
    shutil.copyfile(next((here / "images" / "3").iterdir()), here / "photo.png")
    run = ("run", "model.pt", "--data", "images/", "--target", "host", "--profile", "ptq")
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "compressor", *run]
    subprocess.run(command, check=True, capture_output=True, cwd=here, env={**os.environ, **paths}, timeout=600)
    (exported,) = (here / "runs" / "model-host-ptq" / "cache").glob("lower-*/*.onnx")
    shutil.copyfile(exported, here / "model.onnx")


@pytest.fixture
def project(belongings: Path, tmp_path: Path) -> Path:
    """A checkout of one's own: files may be dropped in."""
    here = tmp_path / "project"
    here.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, here / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, here / name)
    shutil.copytree(belongings, here, dirs_exist_ok=True)
    return here


@pytest.fixture(scope="session")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy knows of the project already, from ``make check``, if that was run."""

    def make(here: Path) -> None:
        if (ROOT / ".mypy_cache").is_dir():
            shutil.copytree(ROOT / ".mypy_cache", here, dirs_exist_ok=True)

    return made_once(tmp_path_factory, "mypy", make)


@pytest.fixture
def environment(project: Path, mypy_cache: Path, tmp_path: Path, warm: list[str]) -> dict[str, str]:
    """``compress`` and ``python`` are the project's; ``make`` only shows that it could, for CI runs it for real."""
    tools = tmp_path / "bin"
    tools.mkdir()
    make = shutil.which("make") or "make"
    for name, command in {
        "compress": f'exec {shlex.join(warm)} "$@"',
        "python": f'exec "{sys.executable}" "$@"',
        "make": f'set -o pipefail; "{make}" --dry-run "$@" | bash -n',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{command}\n")
        (tools / name).chmod(0o755)
    paths = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(project), "MYPY_CACHE_DIR": str(mypy_cache)}
    paths["OMP_NUM_THREADS"] = "1"  # threads that wait for each other make small trainings slow on a busy machine
    return {**os.environ, **paths}


def execute(page: Path, project: Path, environment: dict[str, str]) -> None:
    """Do as a reader who follows the page from its top."""
    printed: str | None = None
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.language == "text":
            if not (block.opens or block.is_example):
                assert printed is not None, where
                assert _lines(printed) == _lines(block.text), where
            printed = None
            continue
        assert block.language in ("sh", "python", "toml"), f"{where}: a {block.language or 'nameless'} block"
        if block.language != "sh" and block.file is not None:
            (project / block.file).write_text(block.text, encoding="utf-8")
            continue
        assert block.language != "toml", f"{where}: the paragraph before names no file"
        command = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, block.text], capture_output=True, text=True, cwd=project, env=environment, timeout=600
        )
        assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, where
        printed = done.stdout


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


# -- the pages ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guide_does_what_it_says(page: Path, project: Path, environment: dict[str, str]) -> None:
    execute(page, project, environment)
    files = [block.file for block in blocks(page) if block.file and re.match(r"compressor/.*\.py", block.file)]
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]) if files else ():
        command = [sys.executable, "-m", *tool, *files]
        done = subprocess.run(command, capture_output=True, text=True, cwd=project, env=environment, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_readme_does_what_it_says(project: Path, environment: dict[str, str]) -> None:
    execute(README, project, environment)
    (tree,) = (b.text for b in blocks(README) if b.text.startswith("runs/<model>"))
    assert (project / "runs" / "model-host-ptq").is_dir()
    assert set(_promised(tree)) == {
        path.relative_to(project / "runs" / "model-host-ptq").as_posix()
        for pattern in ("*.json", "*.html", "*.toml", "bundle/*", "logs")
        for path in (project / "runs" / "model-host-ptq").glob(pattern)
        if path.name != "inputs.json"
    }


def _promised(tree: str) -> Iterator[str]:
    """The files that the README's picture of a run's folder names."""
    for line in tree.splitlines()[1:]:
        name, *rest = re.split(r"\s{2,}", line.strip())
        if name.endswith("/") and rest:
            yield from (name + each for each in rest)
        else:
            yield name.rstrip("/")


def test_the_readme_leads_to_every_guide() -> None:
    text = README.read_text(encoding="utf-8")
    for page in GUIDES:
        assert f"(docs/{page.name})" in text


def test_the_guide_to_targets_explains_every_key() -> None:
    page = (ROOT / "docs" / "writing-a-target.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert keys == {field.name for field in dataclasses.fields(Target)} - {"name"}


@pytest.mark.parametrize("page", [README, ROOT / "CHANGELOG.md", *GUIDES], ids=lambda page: page.stem)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
