"""A folder is a registry."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from compressor import catalog
from compressor.core import UsageError


@dataclass(frozen=True)
class Settings:
    """One field of every kind that a pass may have."""

    rate: float
    count: int = 1
    on: bool = False
    name: str = ""
    method: Literal["ptq", "qat"] = "ptq"
    limit: float | None = None
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 1.0)
    table: Mapping[str, Any] = field(default_factory=dict)


def make(**table: Any) -> Settings:
    return catalog.make(Settings, {"rate": 0.5, **table}, "pass 'demo'")


# -- names ------------------------------------------------------------------------------------


def test_an_unknown_name_gets_the_nearest_and_the_list() -> None:
    error = catalog.unknown("target", "hots", ["host", "x86-avx2"])
    assert error.what == "unknown target: 'hots'"
    assert error.hint == "did you mean 'host'? known: host, x86-avx2"
    assert catalog.unknown("target", "zzz", ["host"]).hint == "known: host"
    assert catalog.unknown("target", "zzz", []).hint == "known: none"


def test_a_module_catalogue_lists_without_importing() -> None:
    before = set(sys.modules)
    assert "null" in catalog.names("backends")
    assert not {name for name in set(sys.modules) - before if name.startswith("compressor.backends.")}


def test_an_entry_is_its_modules_one_public_thing() -> None:
    assert catalog.find("backends", "null").name == "null"
    with pytest.raises(UsageError, match="unknown backend: 'nul'") as caught:
        catalog.find("backends", "nul")
    assert "did you mean 'null'?" in (caught.value.hint or "")


# -- what ships -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalog.toml_names("targets"))
def test_every_target_loads(name: str) -> None:
    target = catalog.find_target(name)
    assert target.name == name
    assert target.title != name
    assert target.native_float in target.precisions
    assert target.backend in catalog.names("backends")
    assert target.width_multiple in (8, 16, 32)
    assert target.sources


@pytest.mark.parametrize("name", catalog.toml_names("profiles"))
def test_every_profile_loads(name: str) -> None:
    profile = catalog.find_profile(name)
    assert profile.name == name
    assert profile.title != name
    if "build" in (kinds := [spec.kind for spec in profile.passes]):  # whatever is shipped is measured and verified
        assert kinds[-2:] == ["measure", "verify"]


@pytest.mark.parametrize("find", [catalog.find_target, catalog.find_profile])
def test_a_users_own_file_is_named_by_its_path(find: Any, tmp_path: Path) -> None:
    folder = "targets" if find is catalog.find_target else "profiles"
    shipped = sorted((Path(catalog.__file__).parent.parent / folder).glob("*.toml"))[0]
    own = tmp_path / "mine.toml"
    own.write_bytes(shipped.read_bytes())
    assert find(str(own)).name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pass = 3", "has no passes"),
        ("title = 'x'", "has no passes"),
        ("[[pass]]\nmethod = 'ptq'", "has no passes"),
        ("passes = 1\n[[pass]]\nkind = 'lower'", "unknown key"),
        ("options = 1\n[[pass]]\nkind = 'lower'", "options is not a table"),
        ("[[pass", "is not valid TOML"),
    ],
)
def test_a_broken_profile_is_refused_with_its_mend(text: str, message: str, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        catalog.find_profile(str(own))
    assert caught.value.hint


@pytest.mark.parametrize("multiple", ["0", "65", "8.0"])
def test_a_target_whose_widths_fit_no_network_is_refused(multiple: str, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    shipped = (Path(catalog.__file__).parent.parent / "targets" / "host.toml").read_text()
    own.write_text(re.sub(r"width_multiple = \d+", f"width_multiple = {multiple}", shipped))
    with pytest.raises(UsageError, match="width_multiple") as caught:
        catalog.find_target(str(own))
    assert caught.value.hint


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        catalog.find_profile(str(tmp_path / "none.toml"))


def test_a_shipped_name_is_never_guessed() -> None:
    with pytest.raises(UsageError, match="unknown target: 'hosts'") as caught:
        catalog.find_target("hosts")
    assert "did you mean 'host'?" in (caught.value.hint or "")


# -- making -----------------------------------------------------------------------------------


def test_lists_become_tuples_and_whole_numbers_floats() -> None:
    made = make(rate=2, names=["a", "b"], pair=[1, 2], limit=3, table={"a": 1})
    assert (made.rate, made.names, made.pair, made.limit) == (2.0, ("a", "b"), (1, 2.0), 3.0)
    assert isinstance(made.rate, float)
    assert isinstance(made.limit, float)
    assert made.table == {"a": 1}
    assert make(limit=None).limit is None


@pytest.mark.parametrize(
    "table",
    [
        {"rate": "0.5"},
        {"rate": True},
        {"count": 1.5},
        {"count": True},
        {"on": 1},
        {"name": 3},
        {"method": "pqt"},
        {"limit": "3"},
        {"names": "ab"},
        {"names": [1]},
        {"pair": [1]},
        {"table": [1]},
    ],
)
def test_nothing_else_bends(table: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        make(**table)
    assert "pass 'demo'" in caught.value.what
    assert next(iter(table)) in caught.value.what
    assert caught.value.hint


def test_an_unknown_setting_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown setting of pass 'demo': 'metod'") as caught:
        make(metod="ptq")
    assert "did you mean 'method'?" in (caught.value.hint or "")


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(UsageError, match="pass 'demo' lacks 'rate'"):
        catalog.make(Settings, {}, "pass 'demo'")
