"""A reader of pickles that follows their instructions without making or importing anything."""

from __future__ import annotations

import _compat_pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any

from compressor.frontend._claims import (
    CALLS,
    CONSTANTS,
    OPAQUE,
    STORAGES,
    Broken,
    FalseClaim,
    Named,
    Storage,
    Table,
    built,
)

__all__ = ["Reader"]

_MOST = 500_000
"""Most instructions; some twenty thousand tensors take as many."""

_READ = frozenset(
    "PROTO STOP MARK TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE EMPTY_LIST EMPTY_DICT NONE NEWFALSE NEWTRUE "  # noqa: SIM905
    "BININT BININT1 BININT2 BINFLOAT BINUNICODE SHORT_BINSTRING LONG1 BINPUT LONG_BINPUT BINGET LONG_BINGET "
    "GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS BINPERSID".split()
)
"""The instructions that torch's ``weights_only`` loader knows."""


class Reader:
    """Follows pickles that lie one after another in a stream, and keeps what they claim."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        """Storages by the key under which the file has their numbers."""
        self.code: str | None = None
        """The first class or function named that weights do not need."""
        self.unread: str | None = None
        """The first instruction that torch's loader would stop at."""
        self._steps = 0

    def read(self, stream: IO[bytes]) -> Any:
        """Read the pickle that starts here, and return what stands for its object.

        Raises Broken for a damaged pickle, FalseClaim for one that claims too much.
        """
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self._steps += 1
                if self._steps > _MOST:
                    raise FalseClaim(f"has a pickle of more than {_MOST:,} instructions")
                if opcode.name not in _READ:
                    self.unread = self.unread or opcode.name
                if opcode.name in _STEPS:
                    _STEPS[opcode.name](self, argument)
                else:
                    self._other(opcode, argument)
            return self._stack.pop()
        except FalseClaim:
            raise
        except Exception as error:  # pickletools, and a stack that is not as it should be, raise all kinds
            raise Broken from error

    # -- instructions -----------------------------------------------------------------------------

    def _other(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Follow an instruction that puts a value on the stack, or one that weights do not use."""
        if opcode.arg is not None and not opcode.stack_before and len(opcode.stack_after) == 1:
            self._stack.append(argument)
            return
        for taken in reversed(opcode.stack_before):
            if taken is pickletools.markobject:
                self._pop_mark()
            elif taken is not pickletools.stackslice:
                self._stack.pop()
        self._stack.extend(OPAQUE for _ in opcode.stack_after)

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _tuple(self, length: int) -> None:
        items = tuple(self._stack[-length:])
        if len(items) < length:
            raise Broken
        self._stack[-length:] = [items]

    def _put(self, index: int) -> None:
        if index > _MOST:
            raise FalseClaim(f"remembers an object as number {index:,}")
        self._memo[index] = self._stack[-1]

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        # As unpicklers do with names from Python 2.
        if (module, name) in _compat_pickle.NAME_MAPPING:
            module, name = _compat_pickle.NAME_MAPPING[module, name]
        self._name(f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}")

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "a computed name")

    def _instance(self, argument: str) -> None:
        self._pop_mark()
        self._global(argument)

    def _extension(self, argument: int) -> None:
        self._push(OPAQUE)
        self.code = self.code or f"copyreg extension {argument}"

    def _name(self, name: str) -> None:
        known = name in CALLS or name in CONSTANTS or name in STORAGES
        self._push(Named(name) if known else OPAQUE)
        if not known:
            self.code = self.code or name

    def _call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if function is OPAQUE:  # foreign: it is named already
            self._push(OPAQUE)
            return
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise Broken
        if function.name not in CALLS:
            raise FalseClaim(f"calls {function.name}, which weights never do")
        self._push(CALLS[function.name](*arguments))

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        built(self._stack[-1], state)

    def _append(self, item: Any) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].append(item)
        elif self._stack[-1] is not OPAQUE:
            raise Broken

    def _appends(self, _: Any) -> None:
        for item in self._pop_mark():
            self._append(item)

    def _set(self, pairs: list[Any]) -> None:
        if isinstance(self._stack[-1], Table) and len(pairs) % 2 == 0:
            for key in pairs[::2]:
                self._stack[-1].add(key)
        elif self._stack[-1] is not OPAQUE:
            raise Broken

    def _set_one(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _persistent(self, _: Any) -> None:
        """Follow the reference to a storage, whose numbers lie elsewhere, or (before 2017) to a module's class."""
        kind, *named = self._stack.pop()
        if kind in ("module", b"module"):
            self.code = self.code or "a module's source"
            self._push(OPAQUE)
            return
        type, key, _, count, *view = named
        if kind not in ("storage", b"storage") or not isinstance(key, str | int | bytes) or not isinstance(count, int):
            raise Broken
        if not isinstance(type, Named) or type.name not in STORAGES:
            raise Broken
        storage = Storage(count, STORAGES[type.name])
        if not 0 <= count < 2**60:
            raise FalseClaim("claims a storage of a negative or impossible size")
        if self.storages.setdefault(str(key), storage) != storage:
            raise FalseClaim(f"claims one storage ({key!r:.50}) in two sizes")
        self._push(self._view(storage, *view[0]) if view and view[0] is not None else storage)

    def _view(self, storage: Storage, _: Any, offset: Any, count: Any) -> Storage:
        if not 0 <= offset <= offset + count <= storage.count:
            raise FalseClaim(f"claims numbers {offset} to {offset + count} of a storage of {storage.count:,}")
        return Storage(count, storage.width)


_STEPS: dict[str, Callable[[Reader, Any], None]] = {
    "PROTO": lambda self, argument: None,
    "STOP": lambda self, argument: None,
    "FRAME": lambda self, argument: None,
    "MARK": Reader._mark,
    "NONE": lambda self, argument: self._push(None),
    "NEWTRUE": lambda self, argument: self._push(True),
    "NEWFALSE": lambda self, argument: self._push(False),
    "EMPTY_TUPLE": lambda self, argument: self._push(()),
    "EMPTY_LIST": lambda self, argument: self._push([]),
    "EMPTY_DICT": lambda self, argument: self._push(Table()),
    "TUPLE": lambda self, argument: self._push(tuple(self._pop_mark())),
    "TUPLE1": lambda self, argument: self._tuple(1),
    "TUPLE2": lambda self, argument: self._tuple(2),
    "TUPLE3": lambda self, argument: self._tuple(3),
    "APPEND": lambda self, argument: self._append(self._stack.pop()),
    "APPENDS": Reader._appends,
    "SETITEM": Reader._set_one,
    "SETITEMS": lambda self, argument: self._set(self._pop_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Reader._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda self, index: self._push(self._memo[index])),
    "MEMOIZE": lambda self, argument: self._put(len(self._memo)),
    "GLOBAL": Reader._global,
    "STACK_GLOBAL": Reader._stack_global,
    "INST": Reader._instance,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), Reader._extension),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Reader._call),
    "BUILD": Reader._build,
    "BINPERSID": Reader._persistent,
}
