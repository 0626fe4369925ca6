"""The user's own code by name, with and without arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.core import UsageError
from compressor.user_code import UserCode

CODE = """
class Made:
    @classmethod
    def build(cls, *args, **kwargs):
        return args, kwargs

def plain():
    return 7
"""


@pytest.fixture(autouse=True)
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_code_of_a_user.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)


def test_arguments_are_literals() -> None:
    text = "own_code_of_a_user:Made.build('a, b', -1, [2.5, None], key=(True, {'x': 1}))"
    assert UserCode.parse(text).call() == (("a, b", -1, [2.5, None]), {"key": (True, {"x": 1})})
    assert UserCode.parse("own_code_of_a_user:plain").call() == 7
    assert UserCode.parse("own_code_of_a_user:plain").load()() == 7


@pytest.mark.parametrize(
    "arguments",
    [
        "(open('x'))",
        "(__import__('os'))",
        "(*[1])",
        "(**{'a': 1})",
        "(a)",
        "(1)(2)",
        "(1 + len('a'))",
        "('a'",
        "(f'{1}')",
    ],
)
def test_nothing_else_is_evaluated(arguments: str) -> None:
    with pytest.raises(UsageError, match=r"not a callable's name|arguments are Python literals"):
        UserCode.parse(f"own_code_of_a_user:Made.build{arguments}")


def test_a_failure_names_the_call_that_fails() -> None:
    with pytest.raises(UsageError, match="TypeError") as caught:
        UserCode.parse("own_code_of_a_user:plain('it takes none')").call()
    assert "own_code_of_a_user.plain('\"'\"'it takes none" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="AttributeError"):
        UserCode.parse("own_code_of_a_user:absent").load()
