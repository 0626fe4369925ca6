"""The classes and functions that a pickle of weights may name, and checks of their arguments. None is imported."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CALLS", "CONSTANTS", "OPAQUE", "STORAGES", "Broken", "FalseClaim", "Named", "Storage", "Table", "built"]

_LARGEST = 2**63 - 1
_PLAIN = (str, bytes, int, float, type(None))


class Broken(Exception):
    """The file is truncated, corrupt, or of another format."""


class FalseClaim(Exception):
    """The file claims what no honest checkpoint claims. The message is a predicate of the file."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A torch storage: how many numbers it has, and the bytes of one."""

    count: int
    width: int


@dataclass(slots=True)
class Table:
    """A dict, of which only the keys are kept."""

    keys: list[Any] = field(default_factory=list)

    def add(self, key: Any) -> None:
        """Add a key. Raises FalseClaim for a key whose hash can be made slow, or to collide."""
        for part in key if isinstance(key, tuple) and len(key) <= 8 else (key,):
            if not isinstance(part, _PLAIN) or (isinstance(part, int) and part.bit_length() > 60):
                raise FalseClaim("has dict keys that are no plain names or numbers")
        self.keys.append(key)


OPAQUE = object()
"""Stands for any other object."""


def _names(table: dict[int, str], pattern: str) -> dict[str, int]:
    return {pattern.format(name): width for width, names in table.items() for name in names.split()}


_WIDTHS = {
    1: "Char Byte Bool",
    2: "Half BFloat16 Short",
    4: "Float Int",
    8: "Double Long ComplexFloat",
    16: "ComplexDouble",
}
STORAGES = {
    **_names(_WIDTHS, "torch.{}Storage"),
    **_names(_WIDTHS, "torch.cuda.{}Storage"),
    **_names({1: "QInt8 QUInt8 QUInt4x2 QUInt2x4", 4: "QInt32"}, "torch.{}Storage"),
    "torch.storage.UntypedStorage": 1,
}
"""Bytes of one number, by the name of the storage's class."""
_DTYPES = _names(
    {
        1: "bool int8 uint8 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu qint8 quint8",
        2: "float16 bfloat16 int16 uint16",
        4: "float32 int32 uint32 complex32 qint32",
        8: "float64 int64 uint64 complex64",
        16: "complex128",
    },
    "torch.{}",
)
CONSTANTS = frozenset(_DTYPES) | {
    f"torch.per_{scheme}" for scheme in ("tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric")
}
_CLASSES = frozenset(name for name in _names(_WIDTHS, "torch.{}Tensor") if "Complex" not in name) | {
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
}


# -- checks: each takes a function's arguments and returns what stands for its result -------------------


def _laid(storage: Any, offset: Any, size: Any, stride: Any, width: int | None = None) -> Any:
    """Check that a tensor lies inside its storage. Raises FalseClaim where it does not."""
    if not (isinstance(storage, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise Broken
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(type(n) is not int for n in numbers):
        raise Broken
    if len(size) > 64 or any(not 0 <= n <= _LARGEST for n in numbers):
        raise FalseClaim("claims a tensor of a negative or impossible size, stride or offset")
    count = math.prod(size)
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if count else 0
    held = storage.count * storage.width // (width or storage.width)
    if (claimed := min(max(count, reach), _LARGEST)) > held:
        raise FalseClaim(f"claims a tensor of {claimed:,} numbers over a storage of {held:,}")
    return OPAQUE


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    return _laid(storage, offset, size, stride)


def _tensor_of_type(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, type: Any, *_: Any
) -> Any:
    if not isinstance(type, Named) or type.name not in _DTYPES:
        raise Broken
    return _laid(storage, offset, size, stride, _DTYPES[type.name])


def _tensor_of_class(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if not isinstance(function, Named) or not function.name.startswith("torch._utils._rebuild_"):
        raise FalseClaim("rebuilds tensors with something else than torch's own functions")
    if not isinstance(kind, Named) or kind.name not in _CLASSES:
        raise Broken
    return CALLS[function.name](*arguments)


def _class(*arguments: Any) -> Any:
    """Check the call of a tensor's class: without arguments before torch 0.4 (`built` follows), or around a tensor."""
    if arguments and arguments[0] is not OPAQUE:
        raise FalseClaim("makes tensors out of nothing")
    return OPAQUE


def _ordered(pairs: Any = ()) -> Table:
    """Return the dict of these pairs, which Python 2 gave as arguments."""
    table = Table()
    for key, _ in _items(pairs):
        table.add(key)
    return table


def _counter(counted: Any = None) -> Table:
    if isinstance(counted, Table):
        return counted
    raise Broken


def _set(items: Any = ()) -> Any:
    table = Table()
    for item in _items(items):
        table.add(item)
    return OPAQUE


def _items(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise Broken
    return value


def _shape(value: Any = ()) -> Any:
    return tuple(_items(value))


def _bytes(text: Any = "", encoding: Any = "latin1") -> Any:
    """Return bytes as protocol 2 spells them. Refuses slow codecs, and numbers, which make a bytearray that long."""
    if not isinstance(text, str | bytes) or encoding not in ("latin1", "latin-1"):
        raise FalseClaim("makes bytes out of something else than text")
    return text if isinstance(text, bytes) else text.encode("latin1", "replace")


def _plain(*arguments: Any) -> Any:
    if not all(isinstance(a, _PLAIN) for a in arguments):
        raise Broken
    return OPAQUE


def _anything(*_: Any) -> Any:
    return OPAQUE


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_qtensor": _tensor,
    "torch._utils._rebuild_sparse_tensor": _anything,
    "torch._utils._rebuild_meta_tensor_no_storage": _anything,
    "torch._utils._rebuild_parameter": _class,
    "torch._utils._rebuild_parameter_with_state": _class,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
    **dict.fromkeys(_CLASSES, _class),
    "torch.Size": _shape,
    "torch.device": _plain,
    "torch.serialization._get_layout": _plain,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,
    "builtins.set": _set,
    "builtins.complex": _plain,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _bytes,
}


def built(thing: Any, state: Any) -> None:
    """Check the state that a made object is given: a dict's attributes, or an old tensor's storage."""
    if isinstance(thing, Table):
        if not isinstance(state, Table) or any(not isinstance(k, str) or hasattr(OrderedDict, k) for k in state.keys):
            raise FalseClaim("replaces the methods of a dict")
    elif isinstance(state, tuple) and any(isinstance(part, Storage) for part in state):
        _laid(*state)
