"""The user's own Python code, named as ``package.module:callable`` or ``package.module:callable('literal', key=1)``."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from compressor.core import UsageError

__all__ = ["UserCode", "importing_from_here"]

_NAME = re.compile(r"(\w+(?:\.\w+)*):(\w+(?:\.\w+)*)(\(.*\))?", re.DOTALL)
_HINT = "write package.module:callable, or package.module:callable('text', 1, key=2.5)"


@dataclass(frozen=True)
class UserCode:
    """A callable of the user's, and the arguments that it is called with."""

    text: str
    """As the user wrote it."""
    module: str
    attribute: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> UserCode:
        """Read a callable's name, with arguments or without.

        Arguments are Python literals; nothing is evaluated. Raises UsageError for anything else.
        """
        found = _NAME.fullmatch(text.strip())
        if found is None:
            raise UsageError(f"not a callable's name: {text!r}", hint=_HINT)
        args, kwargs = _arguments(found[3] or "()", text)
        return cls(text, found[1], found[2], args, kwargs)

    @classmethod
    def matches(cls, text: str) -> bool:
        """Tell whether a text looks like the name of a callable."""
        return _NAME.fullmatch(text.strip()) is not None

    def load(self) -> Callable[..., Any]:
        """Import the callable. Raises UsageError where that fails."""
        made: Callable[..., Any] = self._own(self._import)
        return made

    def call(self) -> Any:
        """Call it with its arguments and return its value. Raises UsageError where it fails."""
        return self._own(lambda: self._import()(*self.args, **self.kwargs))

    def of(self, *args: Any) -> Any:
        """Call it with ``args`` and return its value. Raises UsageError where it fails."""
        return self._own(lambda: self._import()(*args, **self.kwargs))

    def _import(self) -> Any:
        return reduce(getattr, self.attribute.split("."), importlib.import_module(self.module))

    def _own(self, do: Callable[[], Any]) -> Any:
        # stdout is for results: what the user's code prints goes to stderr.
        with importing_from_here(), contextlib.redirect_stdout(sys.stderr):
            try:
                return do()
            except (Exception, SystemExit) as error:  # it may raise anything
                call = self.text.strip().partition(":")[2]
                code = f"import {self.module}; {self.module}.{call if call.endswith(')') else f'{call}()'}"
                raise UsageError(
                    f"{self.text} failed: {type(error).__name__}: {error}",
                    hint=f"make `python -c {shlex.quote(code)}` work in this folder",
                ) from error


def _arguments(text: str, whole: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments in ``(...)``: Python literals. Raises UsageError for anything else."""
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise TypeError("it is not one call")
        args = tuple(map(ast.literal_eval, call.args))
        kwargs = {}
        for each in call.keywords:
            if each.arg is None:
                raise SyntaxError("** is not taken")
            kwargs[each.arg] = ast.literal_eval(each.value)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{whole!r}: arguments are Python literals, nothing else: {reason}", hint=_HINT) from error
    return args, kwargs


@contextlib.contextmanager
def importing_from_here() -> Iterator[None]:
    """Put the working directory, where the user's code mostly is, on ``sys.path``, as ``python -m`` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
