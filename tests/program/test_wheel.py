"""What pip installs: nothing more and nothing less, and it works far from the checkout."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from places import ROOT

from compressor import __version__

INFO = f"compressor-{__version__}.dist-info"


def build(source: Path, place: Path, *kinds: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(place), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    place = tmp_path_factory.mktemp("dist")
    build(ROOT, place, "--wheel", "--sdist")
    return place


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT / "compressor").rglob("*.py")}
    tables = {f"compressor/{folder}/{p.name}" for folder in ("targets", "profiles") for p in (ROOT / folder).iterdir()}
    templates = {p.relative_to(ROOT).as_posix() for p in (ROOT / "compressor/report/templates").iterdir()}
    others = {"compressor/py.typed", *templates}
    told = {f"{INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    assert {"compressor/bundle/runner.py", "compressor/targets/host.toml", "compressor/profiles/ptq.toml"} <= (
        package | tables
    )
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert sorted(names) == sorted(package | tables | others | told)


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    assert wheel.name == f"compressor-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_string(archive.read(f"{INFO}/METADATA").decode())
        entries = archive.read(f"{INFO}/entry_points.txt").decode()
        assert archive.read(f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert (metadata["Version"], metadata["License-Expression"]) == (__version__, "Apache-2.0")
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert entries.split() == ["[console_scripts]", "compress", "=", "compressor.__main__:main"]
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_source_distribution_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    build(tmp_path / f"compressor-{__version__}", tmp_path / "again", "--wheel")
    assert (tmp_path / "again" / wheel.name).read_bytes() == wheel.read_bytes()


# -- installed -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a folder of its own; what it depends on is the environment's."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place, wheel]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return place


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Path) -> Path:
    """A working directory with nothing in it, where the installed copy comes before the checkout."""
    here = tmp_path / "empty"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    return here


def compress(installed: Path, *arguments: object) -> str:
    """Run the installed command; its stdout."""
    command = [str(installed / "bin" / "compress"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_the_installed_copy_that_runs(installed: Path, empty: Path) -> None:
    code = "import compressor; print(compressor.__file__, compressor.Target.__module__)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert told.stdout.split() == [str(installed / "compressor" / "__init__.py"), "compressor.core.target"]
    mine = installed / "compressor" / "targets" / "mine.toml"
    shutil.copyfile(mine.with_name("host.toml"), mine)
    try:
        names = {row["name"] for row in json.loads(compress(installed, "targets", "--json"))}
    finally:
        mine.unlink()
    assert names == {"mine", *(p.stem for p in ROOT.glob("targets/*.toml"))}


def test_the_installed_command_tells_what_there_is(installed: Path, empty: Path) -> None:
    assert "run" in compress(installed, "--help")
    assert compress(installed, "--version") == f"compress {__version__}\n"
    profiles = {row["name"] for row in json.loads(compress(installed, "profiles", "--json"))}
    assert profiles == {p.stem for p in ROOT.glob("profiles/*.toml")}
    assert list(empty.iterdir()) == []


@pytest.mark.slow
def test_the_installed_command_does_the_demo(installed: Path, empty: Path) -> None:
    compress(installed, "run", ROOT / "examples" / "digits" / "teacher.pt", "-o", "runs/demo", "--fresh")
    told = json.loads(compress(installed, "verify", "runs/demo", "--json"))
    assert told["verified"] is True
    assert (empty / "runs" / "demo" / "report.html").stat().st_size > 10_000
    runner = installed / "compressor" / "bundle" / "runner.py"
    assert (empty / "runs" / "demo" / "bundle" / "run.py").read_bytes() == runner.read_bytes()
    assert [p.name for p in empty.iterdir()] == ["runs"]
