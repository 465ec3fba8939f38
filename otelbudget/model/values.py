"""What frozen values share: a repr without what is as by default, pickling, and help for a misspelt keyword."""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, TypeVar

from otelbudget.model.keywords import unknown

T = TypeVar("T")


def spelled(cls: type[T]) -> type[T]:
    """Let the constructor of the dataclass *cls* say which keyword a misspelt one was meant to be."""
    made: Any = cls.__init__
    known = [one.name for one in fields(cls) if one.init]  # type: ignore[arg-type]  # it is a dataclass

    @wraps(made)
    def init(self: T, *args: Any, **given: Any) -> None:
        for name in given:
            if name not in known:
                raise unknown(f"{cls.__name__}() has no", name, known)
        made(self, *args, **given)

    type.__setattr__(cls, "__init__", init)
    return cls


def said(value: Any) -> str:
    """For ``__repr__`` of a dataclass: what of it is not as by default."""
    given = ((one.name, getattr(value, one.name)) for one in fields(value) if one.init and one.repr)
    plain = {one.name: {} if one.default is MISSING else one.default for one in fields(value)}
    return f"{type(value).__name__}({', '.join(f'{name}={_plain(it)!r}' for name, it in given if it != plain[name])})"


def remade(value: Any) -> tuple[Any, ...]:
    """For ``__reduce__`` of a dataclass that holds read-only mappings, which do not pickle: how to make it anew."""
    given = {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.init}
    return partial(value.__class__, **given), ()


def _plain(value: Any) -> Any:
    return {name: _plain(inner) for name, inner in value.items()} if isinstance(value, MappingProxyType) else value
