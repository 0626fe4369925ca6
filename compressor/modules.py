"""A user's modules, walked and called however they use the names that `torch.nn.Module` has for its own methods.

torch itself calls these methods on every module it moves, exports or copies. A module may have an attribute of such a
name (``self.modules = []``) or a method that does something else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from compressor.core import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["named_modules", "named_parameters", "state_dict", "tame"]

_WALKS = frozenset(
    {
        "buffers", "children", "load_state_dict", "modules", "named_buffers", "named_children", "named_modules",
        "named_parameters", "parameters", "state_dict",
    }
)  # fmt: skip
"""Methods that say what a module holds: torch's own are used, as others may leave something out."""
_CALLS: dict[str, tuple[Any, ...]] = {
    "_apply": (None,), "apply": (None,), "cpu": (), "eval": (), "get_submodule": ("",), "requires_grad_": (),
    "to": (None, None), "train": (), "zero_grad": (),
}  # fmt: skip
"""Methods by which torch and this program change or search a module, with arguments: a module's own that take these
are called."""


def _returning(name: str) -> FunctionType:
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        getattr(type(self), name)(self, *args, **kwargs)
        return self

    return method  # type: ignore[return-value]


_RETURNING = {name: _returning(name) for name in ("_apply", "apply", "cpu", "eval", "requires_grad_", "to", "train")}
"""Methods that return the module: a module's own may have forgotten to."""


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a module and all modules inside of it by name, each once; none of their own methods is called."""
    seen: set[int] = set()

    def walk(prefix: str, each: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if id(each) in seen:
            return
        seen.add(id(each))
        yield prefix, each
        for name, child in each._modules.items():
            if child is not None:
                yield from walk(f"{prefix}.{name}" if prefix else name, child)

    return walk("", module)


def named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters by all of their names in the state dict; tied ones come more than once."""
    from torch import nn

    return nn.Module.named_parameters(module, remove_duplicate=False)


def state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module whose methods are torch's own: one that is known, or was tamed."""
    from torch import nn

    return dict(nn.Module.state_dict(module))


def tame(module: nn.Module, whose: str) -> nn.Module:
    """Make torch's own walks and calls work on ``module``, in place, and return it; what it computes stays.

    An attribute of a method's name stays what it is, and can be called as the method too.
    Raises UsageError naming the attribute where it cannot be both; ``whose`` names the module.
    """
    import torch

    for name, each in list(named_modules(module)):
        if isinstance(each, torch.jit.ScriptModule):
            continue
        where = f"{whose}: {name or 'the module'}"
        for method in sorted(_WALKS | _CALLS.keys()):
            if method not in each.__dict__:
                _use_own(each, method, where)
            elif not callable(each.__dict__[method]):
                each.__dict__[method] = _both(each.__dict__[method], each, method, where)
        forward = each.__dict__.get("forward")
        if isinstance(forward, MethodType) and forward.__self__ is each:
            # torch.fx follows the class's own.
            del each.__dict__["forward"]
            each.__class__ = type(type(each).__name__, (type(each),), {"forward": forward.__func__})
    return module


def _both(value: Any, module: nn.Module, name: str, where: str) -> Any:
    """``value`` as an object that can be called as the method ``name`` of ``module``."""
    from torch import nn

    kind = type(value)
    try:
        both = type(kind.__name__, (kind,), {"__call__": lambda self, *a, **k: self._method(*a, **k)})
        made = both(value)
        made._method = MethodType(getattr(nn.Module, name), module)
    except TypeError as error:  # bool and None have no subclasses
        raise _clash(name, where) from error
    return made


def _use_own(module: nn.Module, name: str, where: str) -> None:
    """Put torch's method ``name`` in the place of what a class of the module has under that name."""
    from torch import nn

    value = inspect.getattr_static(type(module), name)
    own = getattr(nn.Module, name)
    if any(vars(cls).get(name) is value for cls in type(module).__mro__ if cls.__module__.partition(".")[0] == "torch"):
        return
    if not isinstance(value, FunctionType):
        raise _clash(name, where)
    if name in _WALKS or not _takes(value, module, _CALLS[name]):
        module.__dict__[name] = MethodType(own, module)
    elif name in _RETURNING:
        module.__dict__[name] = MethodType(_RETURNING[name], module)


def _takes(function: FunctionType, module: nn.Module, arguments: tuple[Any, ...]) -> bool:
    try:
        inspect.signature(function).bind(module, *arguments)
    except (TypeError, ValueError):
        return False
    return True


def _clash(name: str, where: str) -> UsageError:
    return UsageError(
        f"{where} has an attribute {name!r}, which is a method of torch.nn.Module",
        hint=f"rename it: torch calls module.{name}() wherever it moves or exports a module",
    )
